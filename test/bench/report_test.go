package bench

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// report is what was measured, in the order in which it was.
type report struct {
	Begun    string      `json:"begun"`
	Took     float64     `json:"seconds"`
	Machine  string      `json:"machine"`
	Daemons  []contender `json:"-"`
	Names    []string    `json:"daemons"`
	Sections []*section  `json:"sections"`
}

type section struct {
	Title string `json:"title"`
	Notes string `json:"notes"`
	// Load is the machine's load average over a minute when the section began: above
	// what the section itself makes, others kept the machine busy.
	Load string `json:"load"`
	Rows []*row `json:"rows"`
	// Names are what stands side by side, if not the report's daemons.
	Names []string `json:"names,omitempty"`
}

// row is one figure of each daemon.
type row struct {
	What   string               `json:"what"`
	Unit   string               `json:"unit"`
	Values map[string][]float64 `json:"values"` // by daemon, in the order of the rounds
}

func newReport(daemons []contender) *report {
	r := &report{
		Begun: time.Now().UTC().Format(time.RFC3339), Machine: machine(), Daemons: daemons,
	}
	for _, d := range daemons {
		r.Names = append(r.Names, d.name)
	}
	return r
}

// machine tells the kind: name and address are nobody's business.
func machine() string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	release, _, _ := strings.Cut(strings.TrimSpace(string(kernel)), "-")
	return fmt.Sprintf("%d cores, Linux %s, %s", runtime.NumCPU(), release, runtime.Version())
}

// loadNow is the first figure of proc_loadavg(5).
func loadNow() string {
	all, _ := os.ReadFile("/proc/loadavg")
	minute, _, _ := strings.Cut(string(all), " ")
	return minute
}

func (r *report) section(title, notes string) *section {
	s := &section{Title: title, Notes: notes, Load: loadNow()}
	r.Sections = append(r.Sections, s)
	return s
}

func (s *section) add(what, unit, daemon string, value float64) {
	i := slices.IndexFunc(s.Rows, func(r *row) bool { return r.What == what })
	if i < 0 {
		i = len(s.Rows)
		s.Rows = append(s.Rows, &row{What: what, Unit: unit, Values: map[string][]float64{}})
	}
	s.Rows[i].Values[daemon] = append(s.Rows[i].Values[daemon], value)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// spread is how far the values lie from each other, in parts of their median.
func spread(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return (slices.Max(values) - slices.Min(values)) / median(values)
}

func percentile(values []float64, p int) float64 {
	v := slices.Sorted(slices.Values(values))
	return v[min(len(v)-1, len(v)*p/100)]
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Measured %s\n\n%s, %.0f s. Medians; in brackets the smallest and the largest, with more than one "+
		"round.\n", r.Begun, r.Machine, r.Took)
	for _, s := range r.Sections {
		fmt.Fprintf(&b, "\n## %s\n\n%s Load average at its begin: %s.\n\n| | unit |", s.Title, s.Notes, s.Load)
		names := r.Names
		if len(s.Names) > 0 {
			names = s.Names
		}
		for _, name := range names {
			fmt.Fprintf(&b, " %s |", name)
		}
		for _, name := range names[1:] {
			fmt.Fprintf(&b, " %s / %s |", name, names[0])
		}
		b.WriteString("\n|" + strings.Repeat("---|", 2*len(names)+1) + "\n")
		for _, row := range s.Rows {
			b.WriteString(row.line(names))
		}
	}
	return b.String()
}

func (r *row) line(names []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | %s |", r.What, r.Unit)
	for _, name := range names {
		v := r.Values[name]
		switch len(v) {
		case 0:
			b.WriteString(" – |")
		case 1:
			fmt.Fprintf(&b, " %s |", figure(v[0]))
		default:
			fmt.Fprintf(&b, " %s [%s, %s] |", figure(median(v)), figure(slices.Min(v)), figure(slices.Max(v)))
		}
	}
	for _, name := range names[1:] {
		ours, theirs := r.Values[names[0]], r.Values[name]
		if len(ours) == 0 || len(theirs) == 0 || median(ours) == 0 {
			b.WriteString(" – |")
			continue
		}
		fmt.Fprintf(&b, " %.2f%s |", median(theirs)/median(ours), noise(ours, theirs))
	}
	return b.String() + "\n"
}

// noise marks a ratio that lies within what the rounds differ among themselves.
func noise(a, b []float64) string {
	if len(a) > 1 && math.Abs(median(a)-median(b)) <= max(spread(a)*median(a), spread(b)*median(b))/2 {
		return " (noise)"
	}
	return ""
}

// figure gives three digits that count.
func figure(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	return fmt.Sprintf("%.*f", digits, v)
}

func (r *report) write(path string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".json", append(raw, '\n'), 0o644); err != nil { //nolint:gosec // for anyone to read
		return err
	}
	return os.WriteFile(path+".md", []byte(r.markdown()), 0o644) //nolint:gosec // likewise
}

func TestReport(t *testing.T) {
	r := &report{Begun: "today", Took: 600.4, Machine: "2 cores", Names: []string{"weft", "other"}}
	s := r.section("Joins", "How long.")
	s.Load = "0.50"
	for _, v := range []float64{3, 1, 2} {
		s.add("time", "s", "weft", v/10)
		s.add("time", "s", "other", v)
	}
	s.add("memory", "MiB", "weft", 123.456)
	want := `# Measured today

2 cores, 600 s. Medians; in brackets the smallest and the largest, with more than one round.

## Joins

How long. Load average at its begin: 0.50.

| | unit | weft | other | other / weft |
|---|---|---|---|---|
| time | s | 0.200 [0.100, 0.300] | 2.00 [1.00, 3.00] | 10.00 |
| memory | MiB | 123 | – | – |
`
	if have := r.markdown(); have != want {
		t.Errorf("want:\n%s\nhave:\n%s", want, have)
	}
	if n := noise([]float64{1, 2, 3}, []float64{2, 2.5, 3}); n == "" {
		t.Error("half a unit, among rounds that differ by two, is told as a difference")
	}
}
