{
  description = "kwaainet: one node of a decentralised AI network";

  # A branch, not a commit: `nix flake lock` pins it for whoever wants that.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      forEach = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    in
    {
      packages = forEach (pkgs: rec {
        kwaainet = pkgs.callPackage ./nix/package.nix { };
        default = kwaainet;
      });

      devShells = forEach (pkgs: {
        default = pkgs.callPackage ./nix/shell.nix { };
      });
    };
}
