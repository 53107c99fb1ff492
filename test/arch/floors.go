package arch

import (
	"fmt"
	"slices"
	"strings"
)

// floor is one storey of the house.
type floor struct {
	Name     string
	Packages []string // patterns, see matches
}

// floors is the house from the cellar up. A package may import what stands on
// a lower floor. On its own floor are its siblings, and it imports none of
// them; only a parent and its own children are one household. Of several
// patterns that match, the longest counts, so that "pkg/..." is the place of a
// new package that nobody has placed: a leaf.
func floors() []floor {
	return []floor{
		{"leaves", []string{"pkg/...", "pkg/dataplane/ruleset"}},
		{"dataplane", []string{
			"pkg/dataplane", "pkg/tables", "pkg/tables/...",
			"pkg/attachment/nft", // sends by pkg/exchange
		}},
		{"subnet and layers", []string{
			"subnet", "pkg/dataplane/layers", "pkg/attachment", "pkg/attachment/guard", "pkg/attachment/hostports",
			"pkg/trace", // a packet's way through pkg/tables
		}},
		{"backend", []string{
			"backend", "pkg/attachment/mend",
			"pkg/doctor", // judges pkg/tables
		}},
		{"parts", []string{
			"backend/...", "subnet/...", "network/...", "pkg/dataplane/...",
			"pkg/cniplugin", "pkg/topology", // made of leaves, used by cmd
		}},
		{"test kits", kits()},
		{"network", []string{
			"network", "pkg/demo",
			"pkg/doctor/gather", // asks parts of every kind for doctor's facts
		}},
		{"cmd", []string{"cmd/...", "test/..."}},
	}
}

// kits are the packages that only tests import: suites, and what they stand on.
func kits() []string {
	return []string{"backend/backendtest", "subnet/storetest", "subnet/kube/kubetest", "pkg/dataplane/kerneltest"}
}

// floorOf gives the number of the floor, or -1.
func floorOf(path string) int {
	best, by := -1, ""
	for i, f := range floors() {
		for _, pattern := range f.Packages {
			if matches(pattern, path) && len(pattern) > len(by) {
				best, by = i, pattern
			}
		}
	}
	return best
}

// down checks that imports point down only.
func down(p Package) []string {
	mine := floorOf(p.Path)
	if mine < 0 {
		return []string{p.Path + " has no place in the house: give it one in test/arch/floors.go, with the reason"}
	}
	var wrong []string
	for _, path := range p.Imports {
		other, ok := local(path)
		if !ok {
			continue
		}
		theirs := floorOf(other)
		switch {
		case theirs < mine:
		case theirs > mine:
			wrong = append(wrong, fmt.Sprintf("%s imports %s, which stands above it (%s, %s): "+
				"move the shared value down, or let the caller pass it in",
				p.Path, other, floors()[mine].Name, floors()[theirs].Name))
		case !household(p.Path, other):
			wrong = append(wrong, fmt.Sprintf("%s imports %s, its sibling (%s): "+
				"what both need belongs on a lower floor, what joins them in network or cmd",
				p.Path, other, floors()[mine].Name))
		}
	}
	return wrong
}

// household tells whether one of two packages of a floor is the other's parent.
func household(a, b string) bool {
	return strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// onlyCmd checks that nobody but cmd (and a test that runs a whole node)
// imports network, and that test kits are not shipped.
func onlyCmd(p Package) []string {
	var wrong []string
	above := matchesAny([]string{"cmd/...", "test/..."}, p.Path)
	for _, path := range slices.Concat(p.Imports, p.TestImports) {
		if other, ok := local(path); ok && other == "network" && !above && p.Path != "network" {
			wrong = append(wrong, fmt.Sprintf("%s imports network: only cmd runs nodes", p.Path))
		}
	}
	for _, path := range p.Imports {
		other, ok := local(path)
		kit := append(kits(), "pkg/netnstest", "pkg/tlstest", "pkg/golden", "pkg/dataplane/fake", "subnet/memory")
		if ok && matchesAny(kit, other) && !matchesAny(append(kits(), "test/..."), p.Path) && !household(p.Path, other) {
			wrong = append(wrong, fmt.Sprintf("%s imports %s, which is for tests only", p.Path, other))
		}
	}
	return wrong
}
