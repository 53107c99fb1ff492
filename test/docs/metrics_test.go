package docs

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/weftnet/weft/pkg/metrics"
)

// TestTheMetricsOnThePageAreThoseOfTheProgram: the table is the program's own.
func TestTheMetricsOnThePageAreThoseOfTheProgram(t *testing.T) {
	page := section(t, read(t, "Documentation/metrics.md"), "The metrics")
	var rows []string
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "|") {
			rows = append(rows, line)
		}
	}
	if d := cmp.Diff(metrics.Table(), strings.Join(rows, "")); d != "" {
		t.Errorf("table (-pkg/metrics +Documentation/metrics.md):\n%s", d)
	}
}

// served tells whether a metric is there, ours or the process's.
func served(name string) bool {
	return slices.Contains(metrics.Names(), name) || slices.Contains([]string{"process_resident_memory_bytes"}, name)
}

func checkExpression(t *testing.T, where, expr string) {
	t.Helper()
	names, err := parsePromQL(expr)
	if err != nil || len(names) == 0 {
		t.Errorf("%s: %s: %v", where, expr, err)
	}
	for _, name := range names {
		if !served(name) {
			t.Errorf("%s: there is no metric %s", where, name)
		}
	}
}

func TestTheAlertsSpeakOfWhatIsThere(t *testing.T) {
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(read(t, "dist/monitoring/alerts.yml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	var alerts []string
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			alerts = append(alerts, r.Alert)
			checkExpression(t, r.Alert, r.Expr)
			if r.Annotations["summary"] == "" || r.Annotations["action"] == "" || r.Labels["severity"] == "" {
				t.Errorf("%s: want a summary, an action and a severity", r.Alert)
			}
			if r.For != "" && !regexp.MustCompile(`^[0-9]+[smhd]$`).MatchString(r.For) {
				t.Errorf("%s: for %q", r.Alert, r.For)
			}
		}
	}
	var documented []string
	page := section(t, read(t, "Documentation/metrics.md"), "Alerts")
	for _, m := range regexp.MustCompile("(?m)^\\| `(Weft[A-Za-z]+)`").FindAllStringSubmatch(page, -1) {
		documented = append(documented, m[1])
	}
	if d := cmp.Diff(alerts, documented); d != "" || len(alerts) == 0 {
		t.Errorf("alerts (-dist/monitoring/alerts.yml +Documentation/metrics.md):\n%s", d)
	}
}

func TestTheDashboardSpeaksOfWhatIsThere(t *testing.T) {
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "dist/monitoring/dashboard.json")), &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			checkExpression(t, p.Title, target.Expr)
		}
	}
	if len(board.Panels) < 10 {
		t.Errorf("only %d panels", len(board.Panels))
	}
}
