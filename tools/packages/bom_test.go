package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestLicencesPage: the page has every module that our programs import, and no
// other.
func TestLicencesPage(t *testing.T) {
	const others = "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}"
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", others, "./cmd/...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := append(strings.Fields(string(out)), "stdlib")
	slices.Sort(want)
	want = slices.Compact(want)
	page, err := os.ReadFile("../../Documentation/licences.md")
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, row := range regexp.MustCompile(`(?m)^\| (\S+) \| (\S+) \|$`).FindAllStringSubmatch(string(page), -1) {
		if row[1] != "module" {
			have = append(have, row[1])
		}
	}
	if !slices.Equal(want, have) {
		t.Errorf("write the page anew with make packages: imported are\n%q\nlisted are\n%q", want, have)
	}
}

// TestBill: of this test's own program.
func TestBill(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	all, err := modules(".", self)
	if err != nil {
		t.Fatal(err)
	}
	text, err := bill("1.2.3", all)
	if err != nil {
		t.Fatal(err)
	}
	var b bom
	if err := json.Unmarshal([]byte(text), &b); err != nil {
		t.Fatal(err)
	}
	const nfpm = "github.com/goreleaser/nfpm/v2"
	i := slices.IndexFunc(b.Components, func(c component) bool { return c.Name == nfpm })
	if i < 0 || b.Components[i].Licenses[0].License.ID != "MIT" ||
		!strings.HasPrefix(b.Components[i].PURL, "pkg:golang/"+nfpm+"@v2.") {
		t.Errorf("no nfpm under MIT in:\n%s", text)
	}
}

func TestIdentify(t *testing.T) {
	for text, want := range map[string]string{
		"Apache License\n   Version 2.0, January 2004": "Apache-2.0", "all rights reserved": "",
		"Redistribution and\nuse in source and binary forms": "BSD-2-Clause",
	} {
		if have := identify(text); have != want {
			t.Errorf("%q: %q, want %q", text, have, want)
		}
	}
}
