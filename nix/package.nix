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
    base58
    jinja2
    jsonschema
    (callPackage ./llama-cpp-python.nix { })
    numpy
    prometheus-client
    psutil
    pydantic
    pynacl
    pyyaml
    rich
  ];

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
