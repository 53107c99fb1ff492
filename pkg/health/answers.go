package health

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Check is what is known of one condition, or of one part.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
}

// Conditions are all that were ever reported, in alphabetical order.
func (s *State) Conditions() []Check {
	s.mu.Lock()
	defer s.mu.Unlock()
	checks := []Check{}
	for _, c := range slices.Sorted(maps.Keys(s.conditions)) {
		err := s.conditions[c]
		checks = append(checks, Check{Name: c, OK: err == nil})
		if err != nil {
			checks[len(checks)-1].Reason = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
	}
	return checks
}

// Handler answers /healthz with 200 as long as the process lives, /livez with
// 200 as long as its parts answer, and /readyz with 200 while pods can be served;
// else with 503 and the reasons. With ?verbose the answer is JSON, and names what
// is well, too.
func (s *State) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		reply(w, r, []Check{}, "weftd is running", "")
	})
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) {
		reply(w, r, s.vitals(), "weftd is alive", "weftd is wedged")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		checks := s.Conditions()
		if len(checks) == 0 {
			checks = []Check{{Name: "start", Reason: errUnheard.Error()}}
		}
		reply(w, r, checks, "weftd is ready", "weftd is not ready")
	})
	return mux
}

func reply(w http.ResponseWriter, r *http.Request, checks []Check, well, ill string) {
	code, lines := http.StatusOK, []string{well}
	for _, c := range checks {
		if c.OK {
			continue
		}
		if code == http.StatusOK {
			code, lines = http.StatusServiceUnavailable, []string{ill}
		}
		lines = append(lines, c.Name+": "+c.Reason)
	}
	body, kind := []byte(strings.Join(lines, "\n")+"\n"), "text/plain; charset=utf-8"
	if _, verbose := r.URL.Query()["verbose"]; verbose {
		answer := struct {
			OK     bool    `json:"ok"`
			Checks []Check `json:"checks"`
		}{code == http.StatusOK, checks}
		body, _ = json.Marshal(answer) // texts and booleans always encode
		body, kind = append(body, '\n'), "application/json"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(body)
}
