# The functions of nixpkgs.lib that the project uses.
let
  inherit (builtins)
    attrNames
    attrValues
    compareVersions
    foldl'
    head
    listToAttrs
    mapAttrs
    splitVersion
    ;
in
rec {
  inherit (builtins)
    concatStringsSep
    elem
    filter
    head
    listToAttrs
    mapAttrs
    ;
  concatMapAttrs =
    make: set:
    foldl' (all: more: all // more) { } (attrValues (mapAttrs make set));
  genAttrs = names: make: listToAttrs (map (name: nameValuePair name (make name)) names);
  mapAttrs' = make: set: listToAttrs (map (name: make name set.${name}) (attrNames set));
  nameValuePair = name: value: { inherit name value; };
  optional = condition: value: if condition then [ value ] else [ ];
  optionalAttrs = condition: set: if condition then set else { };
  optionalString = condition: text: if condition then text else "";
  optionals = condition: list: if condition then list else [ ];
  versionAtLeast = have: want: compareVersions have want >= 0;
  versions.major = version: head (splitVersion version);

  licenses = {
    asl20.spdxId = "Apache-2.0";
    bsd3.spdxId = "BSD-3-Clause";
    mit.spdxId = "MIT";
  };
  sourceTypes.binaryNativeCode.shortName = "binaryNativeCode";
}
