// Package metrics serves what a node counts, in the form of Prometheus.
//
// It owns the names, the units and the text of each metric, the page that
// documents them, and the HTTP server. It refuses to count: whoever knows fills
// a Snapshot when somebody asks, and nothing is done in between.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Histogram counts how long things took. The zero value is empty. Not safe for
// concurrent use.
type Histogram struct {
	counts [numBounds]uint64 // cumulated only when collected
	over   uint64
	sum    time.Duration
}

const numBounds = 16

// bounds are the upper ends of a Histogram's buckets, in seconds: each the double
// of the one before.
func bounds() (out [numBounds]float64) {
	at := 0.0005
	for i := range out {
		out[i] = at
		at *= 2
	}
	return out
}

// Observe counts one.
func (h *Histogram) Observe(took time.Duration) {
	h.sum += took
	for i, bound := range bounds() {
		if took.Seconds() <= bound {
			h.counts[i]++
			return
		}
	}
	h.over++
}

// distribution gives the form that Prometheus has: by upper bound in seconds how
// many were at most so long, how many there are, and the seconds of all.
type distribution interface {
	cumulated() (buckets map[float64]uint64, count uint64, sum float64)
}

func (h *Histogram) cumulated() (buckets map[float64]uint64, count uint64, sum float64) {
	buckets = make(map[float64]uint64, numBounds)
	for i, bound := range bounds() {
		count += h.counts[i]
		buckets[bound] = count
	}
	return buckets, count + h.over, h.sum.Seconds()
}

func (c Counted) cumulated() (buckets map[float64]uint64, count uint64, sum float64) {
	buckets = make(map[float64]uint64, len(c.Bounds))
	for i, n := range c.Counts {
		count += n
		if i < len(c.Bounds) {
			buckets[c.Bounds[i].Seconds()] = count
		}
	}
	return buckets, count, c.Sum.Seconds()
}

// collector makes metrics of a Snapshot when it is asked for them.
type collector struct {
	read     func() Snapshot
	families []family
}

func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for i := range c.families {
		to <- c.families[i].desc
	}
}

func (c *collector) Collect(to chan<- prometheus.Metric) {
	s := c.read()
	for i := range c.families {
		f := &c.families[i]
		for _, v := range f.read(&s) {
			to <- f.metric(v)
		}
	}
}

func (f *family) metric(v value) prometheus.Metric {
	if v.histogram != nil {
		buckets, count, sum := v.histogram.cumulated()
		return prometheus.MustNewConstHistogram(f.desc, count, sum, buckets, v.labels...)
	}
	kind := prometheus.GaugeValue
	if f.kind == counter {
		kind = prometheus.CounterValue
	}
	return prometheus.MustNewConstMetric(f.desc, kind, v.number, v.labels...)
}

// Handler answers with all metrics of what read gives, and with those of the
// process and of Go's runtime.
func Handler(read func() Snapshot) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		&collector{read, families()},
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(),
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 2}))
	return mux
}

// Serve answers GET /metrics at addr ("127.0.0.1:9101") until ctx ends; it
// returns ctx.Err(), or why it can't listen or go on.
func Serve(ctx context.Context, addr string, read func() Snapshot) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("serve metrics: %w; choose another --metrics-addr", err)
	}
	const patience = 10 * time.Second
	server := &http.Server{
		Handler: Handler(read), ReadHeaderTimeout: patience, WriteTimeout: patience, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 4 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics on %s: %w", listener.Addr(), err)
	}
	return ctx.Err()
}

// Table is the table of Documentation/metrics.md.
func Table() string {
	var out strings.Builder
	out.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, f := range families() {
		labels := make([]string, len(f.labels))
		for i, l := range f.labels {
			labels[i] = "`" + l + "`"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", f.name, f.kind, strings.Join(labels, ", "), f.help)
	}
	return out.String()
}

// Names are those of all metrics, with the three that a histogram has.
func Names() (names []string) {
	for _, f := range families() {
		if f.kind != histogram {
			names = append(names, f.name)
			continue
		}
		names = append(names, f.name+"_bucket", f.name+"_count", f.name+"_sum")
	}
	slices.Sort(names)
	return names
}
