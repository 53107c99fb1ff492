// Package systemd holds dist/systemd to what systemd says of it.
package systemd

import (
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const units = "../../dist/systemd/"

// analyze runs systemd-analyze, which needs no systemd that runs.
func analyze(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not here: apt-get install systemd")
	}
	out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
	if err != nil {
		t.Logf("systemd-analyze %v: %v", args, err)
	}
	return string(out)
}

func TestExposure(t *testing.T) {
	out := analyze(t, "security", "--offline=true", "--no-pager", units+"weftd.service")
	found := regexp.MustCompile(`Overall exposure level for weftd.service: ([0-9.]+)`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("no level in:\n%s", out)
	}
	if level, err := strconv.ParseFloat(found[1], 64); err != nil || level >= 2.5 {
		t.Errorf("the exposure is %s, it shall stay below 2.5:\n%s", found[1], out)
	}
}

// TestVerify: systemd knows every key and value. That our programs and pages are
// not installed here is no fault of the units.
func TestVerify(t *testing.T) {
	out := analyze(t, "verify", units+"weftd.service", units+"weft-docker.service")
	for line := range strings.Lines(out) {
		absent := strings.Contains(line, "/usr/bin/weft") || strings.Contains(line, "'man weft")
		if strings.Contains(line, "weft") && !absent {
			t.Error(line)
		}
	}
}
