// Package docs holds the pages and the shipped files to what the code does.
package docs

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet"
)

const root = "../.."

func TestTheFlagsOnThePageAreThoseOfTheProgram(t *testing.T) {
	page := section(t, read(t, "Documentation/configuration.md"), "The daemon")
	var documented []string
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \|`).FindAllStringSubmatch(page, -1) {
		for _, flag := range regexp.MustCompile("`--([a-z0-9_-]+)`").FindAllStringSubmatch(row[1], -1) {
			documented = append(documented, flag[1])
		}
	}
	slices.Sort(documented)
	if d := cmp.Diff(flags(t), documented); d != "" {
		t.Errorf("flags (-weftd --help +Documentation/configuration.md):\n%s", d)
	}
}

func TestTheEnvironmentFileSetsFlags(t *testing.T) {
	known := flags(t)
	lines := regexp.MustCompile(`(?m)^#?(WEFTD_[A-Z0-9_]+)=`).FindAllStringSubmatch(read(t, "dist/systemd/weftd.env"), -1)
	if len(lines) == 0 {
		t.Fatal("no variable found")
	}
	for _, m := range lines {
		flag := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(m[1], "WEFTD_"), "_", "-"))
		if !slices.Contains(known, flag) {
			t.Errorf("%s: weftd has no flag --%s", m[1], flag)
		}
	}
}

// flags asks the program itself.
func flags(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("go", "run", "./cmd/weftd", "--help")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("weftd --help: %v", err)
	}
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^ +--([a-z0-9_-]+)`).FindAllStringSubmatch(string(out), -1) {
		found[m[1]] = true
	}
	// The text above the list shows whole command lines.
	return slices.Sorted(maps.Keys(found))
}

func TestTheExamplesAreValidConfigurations(t *testing.T) {
	seen := 0
	for _, page := range []string{"Documentation/configuration.md", "Documentation/backends/vxlan.md"} {
		for _, m := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(read(t, page), -1) {
			seen++
			cfg, err := subnet.ParseConfig([]byte(m[1]))
			if err != nil || len(cfg.Warnings) > 0 {
				t.Errorf("%s: %s\n%v %v", page, m[1], err, cfg.Warnings)
			}
		}
	}
	if seen < 3 {
		t.Errorf("only %d examples found", seen)
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	pages, err := filepath.Glob(root + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root+"/Documentation", func(path string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) < 5 {
		t.Fatalf("only %d pages found", len(pages))
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`).FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", page, m[1], err)
			}
		}
	}
}

func TestTheCNIConfigurationKeepsTheName(t *testing.T) {
	var conf struct {
		CNIVersion, Name string
		Plugins          []struct{ Type string }
	}
	if err := json.Unmarshal([]byte(read(t, "dist/cni/10-weft.conflist")), &conf); err != nil {
		t.Fatal(err)
	}
	// Addresses that are given out lie in a directory of this name.
	if conf.Name != "cbr0" || conf.CNIVersion != "1.0.0" || len(conf.Plugins) != 1 || conf.Plugins[0].Type != "weft" {
		t.Errorf("have %+v", conf)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section is the text under a heading of the second level.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, after, ok := strings.Cut(page, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("no section %q", heading)
	}
	text, _, _ := strings.Cut(after, "\n## ")
	return text
}
