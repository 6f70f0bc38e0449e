# libp2p at the release that kwaai/net is written for, and the one dependency of it that nixpkgs may
# not have: fastecdsa, built with GMP.
{
  lib,
  python3Packages,
  gmp,
}:

let
  fastecdsa = python3Packages.buildPythonPackage rec {
    pname = "fastecdsa";
    version = "2.3.2";
    pyproject = true;

    src = python3Packages.fetchPypi {
      inherit pname version;
      hash = "sha256-81JVptPkEQkWa11LCIZtWsu5ny4eZNOn50x3RmTNqEI=";
    };

    build-system = [ python3Packages.setuptools ];
    buildInputs = [ gmp ];
    pythonImportsCheck = [ "fastecdsa.curve" ];

    meta = {
      description = "Elliptic curve cryptography";
      license = lib.licenses.cc0;
    };
  };
in
python3Packages.buildPythonPackage rec {
  pname = "libp2p";
  version = "0.8.1";
  format = "wheel";

  src = python3Packages.fetchPypi {
    inherit pname version format;
    dist = "py3";
    python = "py3";
    hash = "sha256-PVPaogpqeJhMm07RZU13F1exhygvkDdtcVbCtngoswg=";
  };

  # It pins exact releases, and names packages that it uses only when it is developed.
  pythonRelaxDeps = true;
  pythonRemoveDeps = [
    "mypy-protobuf"
    "rpcudp"
    "types-requests"
  ];

  dependencies = with python3Packages; [
    aioquic
    anyio
    base58
    cbor2
    coincurve
    fastecdsa
    grpcio
    httpx
    lru-dict
    miniupnpc
    multiaddr
    noiseprotocol
    prometheus-client
    protobuf
    py-cid
    py-multibase
    py-multicodec
    py-multihash
    pycryptodome
    pynacl
    requests
    trio
    trio-typing
    trio-websocket
    zeroconf
  ];

  pythonImportsCheck = [ "libp2p" ];

  meta = {
    description = "Python implementation of libp2p";
    license = with lib.licenses; [
      mit
      asl20
    ];
  };
}
