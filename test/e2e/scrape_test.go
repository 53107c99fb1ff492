package e2e

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/metrics"
)

// scrape gives the sums of all series of each metric of ours that a node serves.
func (d *daemon) scrape(at string) (map[string]float64, string, error) {
	client := d.node.Client()
	client.Timeout = 10 * time.Second
	reply, err := client.Get("http://" + at + "/metrics")
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = reply.Body.Close() }()
	text, err := io.ReadAll(reply.Body)
	if err != nil || reply.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("%s %w", reply.Status, err)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		m := regexp.MustCompile(`^(weft_[a-z_]+)(?:\{.*\})? (\S+)\n$`).FindStringSubmatch(line)
		if m == nil {
			if strings.HasPrefix(line, "weft_") {
				return nil, "", fmt.Errorf("no line of Prometheus: %q", line)
			}
			continue
		}
		n, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return nil, "", err
		}
		out[m[1]] += n
	}
	return out, string(text), nil
}

// TestScrape: what the page of metrics promises is there on a node with a peer,
// pods, and an entry that was put right, and nothing else is.
func TestScrape(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, underlay4)
	const at = "127.0.0.1:9101"
	store := c.daemon(0, c.storeArgs("--network=10.42.0.0/16")...).start()
	d := c.daemon(1, "--metrics-addr", at).start()
	store.awaitReady(1)
	d.awaitReady(1)
	c.mesh(c.pods(), 1450)
	if out, err := output(t, &d.node.Namespace, "ip", "route", "del", store.subnet(t)); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.awaitPlanEmpty()

	absent := []string{ // on a node to which nothing bad happened
		"weft_peers_skipped", "weft_kernel_refused_total",
	}
	counting := []string{ // what has counted something here
		"weft_build_info", "weft_node_info", "weft_ready", "weft_condition", "weft_peers", "weft_store_up", "weft_store_revision",
		"weft_store_leases", "weft_rounds_total", "weft_round_duration_seconds_count", "weft_kernel_writes_total",
		"weft_repairs_total", "weft_device_receive_bytes_total", "weft_device_transmit_packets_total", "weft_probe_paths",
		"weft_probe_rtt_seconds_count", "weft_probes_sent_total", "weft_cni_calls_total",
		"weft_cni_call_duration_seconds_count", "weft_store_request_duration_seconds_count",
		"weft_lease_expires_timestamp_seconds", "weft_lease_renewed_timestamp_seconds", "weft_store_heard_timestamp_seconds",
		"weft_apply_delay_seconds_count",
	}
	eventually(t, 30*time.Second, func() error {
		have, text, err := d.scrape(at)
		if err != nil {
			return err
		}
		for name := range have {
			if !slices.Contains(metrics.Names(), name) {
				t.Fatalf("%s is served, and on no page", name)
			}
		}
		for _, name := range metrics.Names() {
			if _, ok := have[name]; !ok && !slices.Contains(absent, name) {
				return fmt.Errorf("%s is not served", name)
			}
		}
		for _, name := range counting {
			if have[name] <= 0 {
				return fmt.Errorf("%s is %v", name, have[name])
			}
		}
		for _, op := range []string{"range", "txn", "lease-grant", "watch-start", "keepalive"} {
			if !strings.Contains(text, `weft_store_request_duration_seconds_count{operation="`+op+`"}`) {
				return fmt.Errorf("no request %s was timed", op)
			}
		}
		return nil
	})
}

// subnet is the node's own.
func (d *daemon) subnet(t *testing.T) string {
	t.Helper()
	s, err := d.status()
	if err != nil || len(s.Node.Subnets) == 0 {
		t.Fatalf("subnets %v, %v", s.Node.Subnets, err)
	}
	return s.Node.Subnets[0]
}

// TestDaemonServesThePage: to this machine, under its own names.
func TestDaemonServesThePage(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, underlay4)
	d := c.daemon(0, c.storeArgs("--network=10.42.0.0/16", "--ui-addr=127.0.0.1:9102")...).start()
	d.awaitReady(0)
	client := d.node.Client()
	client.Timeout = 10 * time.Second
	for _, ask := range []struct {
		method, host, path string
		code               int
		body               string
	}{
		{"GET", "localhost:9102", "/", 200, "<title>weft</title>"},
		{"GET", "127.0.0.1:9102", "/v1/status", 200, `"ready": true`},
		{"GET", "127.0.0.1:9102", "/v1/peers", 200, "["},
		{"GET", "127.0.0.1:9102", "/v1/events?after=0", 200, `"kind":"started"`},
		{"GET", "127.0.0.1:9102", "/v1/plan", 404, ""},
		{"POST", "127.0.0.1:9102", "/v1/status", 405, ""},
		{"GET", "weft.example:9102", "/v1/status", 403, "for localhost only"}, // a name that was led here
		{"GET", c.Nodes[0].Addrs[0].String() + ":9102", "/v1/status", 403, "for localhost only"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), ask.method, "http://127.0.0.1:9102"+ask.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = ask.host
		reply, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(reply.Body)
		_ = reply.Body.Close()
		if err != nil || reply.StatusCode != ask.code || !strings.Contains(string(body), ask.body) {
			t.Errorf("%+v: %s %v\n%.300s", ask, reply.Status, err, body)
		}
	}
	// Not at the node's own address, and nowhere without the flag.
	outside := c.Outside.Client()
	outside.Timeout = 5 * time.Second
	if reply, err := outside.Get("http://" + c.Nodes[0].Addrs[0].String() + ":9102/"); err == nil {
		_ = reply.Body.Close()
		t.Error("another host reaches it")
	}
	d.stop()
	d.args = slices.DeleteFunc(d.args, func(arg string) bool { return strings.HasPrefix(arg, "--ui-addr") })
	d.start().awaitReady(0)
	if reply, err := client.Get("http://127.0.0.1:9102/"); err == nil {
		_ = reply.Body.Close()
		t.Error("it is served without the flag")
	}
}
