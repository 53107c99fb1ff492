package main

import (
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A bill of materials, CycloneDX 1.5 in JSON: the modules that are in our
// programs, as Go's linker wrote them there, each with its licence.

type bom struct {
	Format     string      `json:"bomFormat"`
	Spec       string      `json:"specVersion"`
	Version    int         `json:"version"`
	Metadata   metadata    `json:"metadata"`
	Components []component `json:"components"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type     string    `json:"type"`
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	PURL     string    `json:"purl,omitempty"`
	Licenses []licence `json:"licenses,omitempty"`
}

type licence struct {
	License struct {
		ID string `json:"id"`
	} `json:"license"`
}

// module is one that a program is made of.
type module struct{ path, version, licence string }

// modules reads them out of programs, each once, with the licences.
func modules(root string, programs ...string) ([]module, error) {
	seen := map[string]module{}
	for _, program := range programs {
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			return nil, fmt.Errorf("read what %s is made of: %w", program, err)
		}
		seen["stdlib"] = module{"stdlib", info.GoVersion, "BSD-3-Clause"}
		for _, dep := range info.Deps {
			seen[dep.Path] = module{path: dep.Path, version: dep.Version}
		}
	}
	var out []module
	for _, m := range seen {
		if m.licence == "" {
			var err error
			if m.licence, err = licenceOf(root, m); err != nil {
				return nil, err
			}
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b module) int { return cmp.Compare(a.path, b.path) })
	return out, nil
}

// licenceOf names the licence of a module by its file, as SPDX does.
func licenceOf(root string, m module) (string, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", m.path)
	cmd.Dir = root
	dir, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the source of %s: %w", m.path, err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "*"))
	if err != nil {
		return "", err
	}
	for _, f := range files {
		name := strings.ToUpper(filepath.Base(f))
		if !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		if id := identify(string(text)); id != "" {
			return id, nil
		}
	}
	return "", fmt.Errorf("%s has no licence that is known here: read it, and name it in tools/packages/bom.go", m.path)
}

// identify knows a licence by words that only it has.
func identify(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	for _, l := range []struct {
		id    string
		words []string
	}{
		{"Apache-2.0", []string{"Apache License", "Version 2.0"}},
		{"MPL-2.0", []string{"Mozilla Public License", "2.0"}},
		{"BSD-3-Clause", []string{"Redistribution and use in source and binary forms", "endorse or promote"}},
		{"BSD-2-Clause", []string{"Redistribution and use in source and binary forms"}},
		{"ISC", []string{"Permission to use, copy, modify, and/or distribute this software"}},
		{"ISC", []string{"Permission to use, copy, modify, and distribute this software"}},
		{"MIT", []string{"Permission is hereby granted, free of charge"}},
	} {
		if !slices.ContainsFunc(l.words, func(w string) bool { return !strings.Contains(text, w) }) {
			return l.id
		}
	}
	return ""
}

// bill is the bill of materials, as text.
func bill(version string, all []module) (string, error) {
	b := bom{
		Format: "CycloneDX", Spec: "1.5", Version: 1,
		Metadata: metadata{component{Type: "application", Name: "weft", Version: version}},
	}
	for _, m := range all {
		c := component{Type: "library", Name: m.path, Version: m.version, PURL: "pkg:golang/" + m.path + "@" + m.version}
		var l licence
		l.License.ID = m.licence
		c.Licenses = []licence{l}
		b.Components = append(b.Components, c)
	}
	text, err := json.MarshalIndent(b, "", "  ")
	return string(text) + "\n", err
}

// list is the page of licences, for people.
func list(all []module) string {
	var out strings.Builder
	out.WriteString("# What weft is made of\n\nThe modules in `weftd`, `weftctl` and `weft`, with their licences. " +
		"Written by `make packages`; don't edit.\n\n| module | licence |\n|---|---|\n")
	for _, m := range all {
		fmt.Fprintf(&out, "| %s | %s |\n", m.path, m.licence)
	}
	return out.String()
}
