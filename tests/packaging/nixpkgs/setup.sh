# What `nix develop` sources, in place of stdenv's: the packages come onto the paths.
for package in $packages; do
  PATH=$package/bin:$PATH
  for folder in "$package"/lib/python*/site-packages; do
    if [ -d "$folder" ]; then
      PYTHONPATH=$folder${PYTHONPATH:+:$PYTHONPATH}
    fi
  done
done
export PATH PYTHONPATH
