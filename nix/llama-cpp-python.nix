# The engine at the release that the slices are proven with; nixpkgs may carry another. Built for any
# processor of its kind: a package must not depend on the machine that built it.
{
  lib,
  python3Packages,
  cmake,
  ninja,
}:

python3Packages.buildPythonPackage rec {
  pname = "llama-cpp-python";
  version = "0.3.36";
  pyproject = true;

  src = python3Packages.fetchPypi {
    pname = "llama_cpp_python";
    inherit version;
    hash = "sha256-gy2waZAH8b6Vp+Qe8S6IkmsCuoNkYeNqNjctsnYMGi4=";
  };

  build-system = [ python3Packages.scikit-build-core ];
  nativeBuildInputs = [
    cmake
    ninja
  ];
  dontUseCmakeConfigure = true; # scikit-build-core runs cmake itself
  env.CMAKE_ARGS = "-DGGML_NATIVE=OFF";

  dependencies = with python3Packages; [
    diskcache
    jinja2
    numpy
    typing-extensions
  ];

  pythonImportsCheck = [ "llama_cpp" ];

  meta = {
    description = "Python bindings for llama.cpp";
    license = lib.licenses.mit;
  };
}
