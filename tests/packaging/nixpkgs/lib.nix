# The functions of nixpkgs.lib that the project uses.
let
  inherit (builtins)
    attrNames
    attrValues
    compareVersions
    concatStringsSep
    foldl'
    head
    listToAttrs
    mapAttrs
    splitVersion
    ;
in
rec {
  inherit (builtins)
    attrNames
    concatStringsSep
    elem
    filter
    head
    listToAttrs
    mapAttrs
    sort
    ;
  composeExtensions =
    first: second: final: prev:
    let
      more = first final prev;
    in
    more // second final (prev // more);
  concatMapAttrs =
    make: set:
    foldl' (all: more: all // more) { } (attrValues (mapAttrs make set));
  getName = package: package.pname or (builtins.parseDrvName package.name).name;
  genAttrs = names: make: listToAttrs (map (name: nameValuePair name (make name)) names);
  hasSuffix =
    suffix: text:
    let
      start = builtins.stringLength text - builtins.stringLength suffix;
    in
    start >= 0 && builtins.substring start (-1) text == suffix;
  mapAttrs' = make: set: listToAttrs (map (name: make name set.${name}) (attrNames set));
  nameValuePair = name: value: { inherit name value; };
  optional = condition: value: if condition then [ value ] else [ ];
  optionalAttrs = condition: set: if condition then set else { };
  optionalString = condition: text: if condition then text else "";
  optionals = condition: list: if condition then list else [ ];
  versionAtLeast = have: want: compareVersions have want >= 0;
  versionOlder = have: want: compareVersions have want < 0;
  versions = {
    major = version: head (splitVersion version);
    majorMinor =
      version:
      let
        parts = splitVersion version;
      in
      concatStringsSep "." [
        (head parts)
        (builtins.elemAt parts 1)
      ];
  };

  free = shortName: {
    inherit shortName;
    free = true;
  };
  licenses = {
    asl20 = free "asl20";
    bsd3 = free "bsd3";
    issl = free "issl" // {
      free = false;
    };
    mit = free "mit";
  };
  sourceTypes.binaryNativeCode.shortName = "binaryNativeCode";
}
