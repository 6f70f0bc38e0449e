# The program. The dependencies are those of pyproject.toml; tests/unit/test_nix.py compares them.
{
  lib,
  callPackage,
  python3Packages,
}:

python3Packages.buildPythonApplication {
  pname = "kwaainet";
  version = (lib.importTOML ../pyproject.toml).project.version;
  pyproject = true;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../pyproject.toml
      ../README.md
      ../LICENSE
      ../kwaai
      ../credentials
      ../schemas
    ];
  };

  build-system = [ python3Packages.hatchling ];

  dependencies = with python3Packages; [
    aiohttp
    (callPackage ./apsw-sqlite3mc.nix { })
    base58
    cryptography
    (callPackage ./faiss-cpu.nix { })
    jinja2
    jsonschema
    (callPackage ./libp2p.nix { })
    (callPackage ./llama-cpp-python.nix { })
    noiseprotocol
    numpy
    prometheus-client
    protobuf
    psutil
    pydantic
    pyld
    pynacl
    pypdf
    python-docx
    pyyaml
    rfc8785
    rich
    scipy
    trio
    zeroconf
  ];

  optional-dependencies.embed = [ python3Packages.onnxruntime ];

  pythonImportsCheck = [
    "kwaai"
    "credentials"
    "schemas"
  ];

  meta = {
    description = "One node of a decentralised AI network";
    license = lib.licenses.asl20;
    mainProgram = "kwaainet";
    platforms = lib.platforms.unix;
  };
}
