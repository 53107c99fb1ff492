package metrics

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func someSnapshot() Snapshot {
	s := Snapshot{
		Version: "v0.1.0", Go: "go1.26", Backend: "vxlan", Engine: "nftables", Uplink: "eth0", Ready: true,
		Conditions:   map[string]bool{"lease": true, "uplink": false},
		LeaseRenewed: time.Unix(1000, 0), LeaseExpires: time.UnixMilli(87400500),
		Peers: 2, Skipped: map[string]int{"VtepMAC": 1}, StoreUp: true, Revision: 12, Leases: 3,
		Rounds: 4, Writes: map[string]uint64{"route": 2, "fdb": 2}, Repairs: map[string]int{"route": 1},
		Devices: map[string]Device{"flannel.1": {1, 2, 3, 4, 5, 6, 7, 8}},
		Plugin: map[string]Calls{"ADD": {Done: 4, Failed: 1, Took: Counted{
			Bounds: []time.Duration{time.Millisecond, time.Second}, Counts: []uint64{2, 0, 3}, Sum: time.Minute,
		}}},
	}
	s.RoundTook.Observe(time.Millisecond)
	s.RoundTook.Observe(time.Hour)
	return s
}

func scrape(t *testing.T, s Snapshot) string {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(func() Snapshot { return s }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestEverythingIsServed(t *testing.T) {
	text := scrape(t, someSnapshot())
	for _, line := range []string{
		`weft_build_info{goversion="go1.26",version="v0.1.0"} 1`,
		`weft_condition{condition="lease"} 1`,
		`weft_condition{condition="uplink"} 0`,
		`weft_lease_expires_timestamp_seconds 87400.5`,
		`weft_peers 2`,
		`weft_peers_skipped{field="VtepMAC"} 1`,
		`weft_store_up 1`,
		`weft_round_duration_seconds_bucket{le="0.001"} 1`,
		`weft_round_duration_seconds_bucket{le="+Inf"} 2`,
		`weft_round_duration_seconds_sum 3600.001`,
		`weft_kernel_writes_total{kind="route"} 2`,
		`weft_device_receive_drops_total{device="flannel.1"} 4`,
		`weft_device_transmit_bytes_total{device="flannel.1"} 5`,
		`weft_cni_calls_total{result="done",verb="ADD"} 4`,
		`weft_cni_calls_total{result="failed",verb="ADD"} 1`,
		`weft_cni_call_duration_seconds_bucket{verb="ADD",le="0.001"} 2`,
		`weft_cni_call_duration_seconds_bucket{verb="ADD",le="1"} 2`,
		`weft_cni_call_duration_seconds_bucket{verb="ADD",le="+Inf"} 5`,
		`weft_cni_call_duration_seconds_count{verb="ADD"} 5`,
		`weft_cni_call_duration_seconds_sum{verb="ADD"} 60`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("%s is not in it", line)
		}
	}
	if strings.Contains(text, "weft_store_heard_timestamp_seconds ") ||
		!strings.Contains(text, "\nprocess_resident_memory_bytes ") {
		t.Errorf("never heard, or nothing of the process:\n%s", text)
	}
}

// TestNothingGrowsWithTheCluster: no label names a peer.
func TestNothingGrowsWithTheCluster(t *testing.T) {
	few, many := someSnapshot(), someSnapshot()
	many.Peers, many.Leases, many.Skipped["VtepMAC"] = 10_000, 10_000, 5_000
	if a, b := strings.Count(scrape(t, few), "\nweft_"), strings.Count(scrape(t, many), "\nweft_"); a != b {
		t.Errorf("%d series, and %d with 10,000 peers", a, b)
	}
}

// https://prometheus.io/docs/practices/naming/
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range families() {
		if seen[f.name] || !regexp.MustCompile(`^weft_[a-z]+(_[a-z]+)*$`).MatchString(f.name) {
			t.Errorf("%s: twice, or no name", f.name)
		}
		seen[f.name] = true
		if strings.HasSuffix(f.name, "_total") != (f.kind == counter) {
			t.Errorf("%s is a %s", f.name, f.kind)
		}
		if f.kind == histogram && !strings.HasSuffix(f.name, "_seconds") {
			t.Errorf("%s has no unit", f.name)
		}
		if !strings.HasSuffix(f.help, ".") || strings.Contains(f.help, "|") {
			t.Errorf("%s: %q is no sentence for a table", f.name, f.help)
		}
	}
	if names := Names(); !slices.Contains(names, "weft_round_duration_seconds_bucket") || len(names) < len(seen) {
		t.Errorf("names: %v", names)
	}
}

func TestParseDevices(t *testing.T) {
	const text = `Inter-|   Receive                                          |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:  100       2    0    0    0     0          0         0   100       2    0    0    0     0       0          0
flannel.1:  11    12   13   14    0     0          0         0    15      16   17   18    0     0       0          0
flannel-v6.1: x 12 13 14 0 0 0 0 15 16 17 18 0 0 0 0
short.1: 1 2 3
`
	have := ParseDevices(text, func(name string) bool { return name != "lo" })
	want := map[string]Device{"flannel.1": {11, 12, 13, 14, 15, 16, 17, 18}}
	if d := cmp.Diff(want, have); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
}

func FuzzParseDevices(f *testing.F) {
	f.Add("flannel.1:  11 12 13 14 0 0 0 0 15 16 17 18 0 0 0 0\n")
	f.Fuzz(func(t *testing.T, text string) {
		for name := range ParseDevices(text, func(string) bool { return true }) {
			if strings.ContainsAny(name, ":\n") {
				t.Errorf("%q", name)
			}
		}
	})
}

func TestServeOnATakenPort(t *testing.T) {
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	addr := strings.TrimPrefix(taken.URL, "http://")
	if err := Serve(t.Context(), addr, someSnapshot); err == nil || !strings.Contains(err.Error(), "--metrics-addr") {
		t.Errorf("have %v", err)
	}
}
