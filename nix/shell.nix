# What tools/bootstrap.py looks for: Python, a compiler and GMP. The packages themselves come into .venv,
# as they do for everybody else.
{
  lib,
  stdenv,
  mkShell,
  gmp,
  python3,
  zlib,
}:

mkShell {
  packages = [
    gmp # for fastecdsa, which libp2p needs
    python3
  ];

  # Wheels of the package index bring libraries that look for these two.
  env = lib.optionalAttrs stdenv.isLinux {
    LD_LIBRARY_PATH = lib.makeLibraryPath [
      stdenv.cc.cc.lib
      zlib
    ];
  };

  shellHook = ''
    echo 'python3 tools/bootstrap.py run "What is the capital of France?"'
    echo 'python3 tools/bootstrap.py test'
  '';
}
