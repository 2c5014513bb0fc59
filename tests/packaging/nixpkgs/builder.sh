# Builds a derivation of the stand-in with the host's tools, in the order and in the
# folders in which nixpkgs does: build, install, postInstall and checkPhase in the
# source's root, then the imports in $out (its pypa-install-hook.sh, which also puts
# the installed package onto PYTHONPATH, and python-imports-check-hook.sh).
set -euo pipefail
export HOME=$TMPDIR
runHook() { :; }
substituteInPlace() { # FILE, then --replace-fail OLD NEW again and again.
  python -c '
import sys
path, *words = sys.argv[1:]
text = open(path).read()
for option, old, new in zip(*[iter(words)] * 3):
    assert option == "--replace-fail" and old in text, (option, old)
    text = text.replace(old, new)
open(path, "w").write(text)' "$@"
}

if [ -n "${buildCommand-}" ]; then
  eval "$buildCommand"
  exit 0
fi
if [ -n "${installPhase-}" ]; then
  eval "$installPhase"
  exit 0
fi
if [ -z "${src-}" ]; then # A tool: the host's path has the real one.
  mkdir "$out"
  exit 0
fi

PATH=$(dirname "$hostPython"):$PATH
PYTHONPATH=
for package in $pythonPath; do
  PYTHONPATH=$package/$sitePackages:$PYTHONPATH
done
export PATH PYTHONPATH PIP_CONFIG_FILE=/dev/null PIP_NO_INDEX=1
PIP_DISABLE_PIP_VERSION_CHECK=1
export SOURCE_DATE_EPOCH=315532800 # As nixpkgs' stdenv: 1980.

if [ -n "$pyproject" ]; then
  cp -r "$src" source
  chmod -R u+w source
  cd source
  eval "${postPatch-}"
  python -m build --wheel --no-isolation --outdir dist $pypaBuildFlags
else
  mkdir dist
  name=$(basename "$src")
  ln -s "$src" "dist/${name#*-}" # Without the store's hash.
fi
python -m pip install --quiet --no-deps --no-compile \
  --target "$out/$sitePackages" dist/*.whl
# nixpkgs' installer compiles all, for both levels, and py_compile keeps hashes of the
# sources instead of their times where SOURCE_DATE_EPOCH is set.  What the check imports
# would else be compiled with the time of the build.  Of ready-made wheels, which are
# large, nothing is compared.
if [ -n "$pyproject" ]; then
  python -m compileall -q -o 0 -o 1 "$out/$sitePackages"
fi
if [ -d "$out/$sitePackages/bin" ]; then
  mv "$out/$sitePackages/bin" "$out/bin"
fi
eval "$postInstall"

export PYTHONPATH=$out/$sitePackages:$PYTHONPATH
(eval "$checkPhase")
cd "$out"
for module in $pythonImportsCheck; do
  python -c "import $module"
done
exit 0 # Not a coreutils program: nix 2.8 would kill what bash runs last.
