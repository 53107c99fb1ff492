// Package doctor knows what goes wrong on a node, how it shows, and what mends it.
//
//	host, kernel, daemon, store, probes ──(gather)──→ Facts ──Examine──→ results
//
// Every known failure is a row of Checks: what it looks at, what it means, and
// the command that mends it. It owns those rows. It refuses to look at anything
// but the facts, so that each row can be tried without a broken machine.
package doctor

// Level says how bad a result is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is one fault.
type Finding struct {
	Level    Level  `json:"level"`
	Cause    string `json:"cause"`
	Evidence string `json:"evidence"`
	Mend     string `json:"mend"`
}

// Result is what a check found.
type Result struct {
	Check    string    `json:"check"`
	Level    Level     `json:"level"`
	Findings []Finding `json:"findings,omitempty"`
}

// Check is a known failure. Looks, Means and Mends are the row of the
// documentation; a finding may say something more exact.
type Check struct {
	Name  string
	Looks string
	Means string
	Mends string
	find  func(Facts) []Finding
}

// Checks are all known failures, in the order in which to mend them.
func Checks() []Check {
	var all []Check
	for _, theme := range [][]Check{
		kernelChecks(), daemonChecks(), deviceChecks(), hostChecks(), rulesChecks(), routeChecks(), leaseChecks(),
		storeChecks(), pathChecks(), limitChecks(),
	} {
		all = append(all, theme...)
	}
	return all
}

// Examine runs the checks; names choose some, none is all.
func Examine(f Facts, names ...string) []Result {
	chosen := map[string]bool{}
	for _, n := range names {
		chosen[n] = true
	}
	var out []Result
	for _, c := range Checks() {
		if len(chosen) > 0 && !chosen[c.Name] {
			continue
		}
		r := Result{Check: c.Name, Level: OK}
		for _, found := range c.find(f) {
			if found.Level == "" {
				found.Level = Fail
			}
			if found.Cause == "" {
				found.Cause = c.Means
			}
			if found.Mend == "" {
				found.Mend = c.Mends
			}
			if found.Level == Fail || r.Level == OK {
				r.Level = found.Level
			}
			r.Findings = append(r.Findings, found)
		}
		out = append(out, r)
	}
	return out
}

// Worst is the worst level of results.
func Worst(results []Result) Level {
	worst := OK
	for _, r := range results {
		if r.Level == Fail || worst == OK {
			worst = r.Level
		}
	}
	return worst
}
