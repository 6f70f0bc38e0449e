# SQLite with encrypted pages, under the name apsw: the source release holds SQLite3 Multiple Ciphers.
{
  lib,
  python3Packages,
}:

python3Packages.buildPythonPackage rec {
  pname = "apsw-sqlite3mc";
  version = "3.54.0.0";
  pyproject = true;

  src = python3Packages.fetchPypi {
    pname = "apsw_sqlite3mc";
    inherit version;
    hash = "sha256-YKAhzZ9sjz4qpstU4ZfLNEN51euaaIt2R6E2/CSVbbQ=";
  };

  build-system = [ python3Packages.setuptools ];
  pythonImportsCheck = [ "apsw" ];

  meta = {
    description = "Another Python SQLite wrapper, with encryption";
    license = lib.licenses.mit;
  };
}
