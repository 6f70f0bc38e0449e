# faiss for Python under the name that the package index has it: nixpkgs builds it from source.
{
  python3Packages,
}:

python3Packages.faiss.overridePythonAttrs (_: {
  pname = "faiss-cpu";
})
