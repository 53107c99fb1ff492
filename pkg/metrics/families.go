package metrics

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// kind is that of a metric.
type kind string

const (
	gauge     kind = "gauge"
	counter   kind = "counter"
	histogram kind = "histogram"
)

// family is one metric.
type family struct {
	name   string
	kind   kind
	labels []string
	help   string
	read   func(*Snapshot) []value

	desc *prometheus.Desc
}

type value struct {
	number    float64
	histogram distribution
	labels    []string
}

// families is the table of all metrics; the page is made of it.
func families() []family {
	all := slices.Concat(
		nodeFamilies(), storeFamilies(), requestFamilies(), kernelFamilies(), deviceFamilies(), probeFamilies(),
		pluginFamilies(),
	)
	for i := range all {
		all[i].desc = prometheus.NewDesc(all[i].name, all[i].help, all[i].labels, nil)
	}
	return all
}

func nodeFamilies() []family {
	return []family{
		{
			name: "weft_build_info", kind: gauge, labels: []string{"version", "goversion"}, help: "Always 1.",
			read: func(s *Snapshot) []value { return []value{{number: 1, labels: []string{s.Version, s.Go}}} },
		},
		{
			name: "weft_node_info", kind: gauge, labels: []string{"backend", "engine", "uplink"},
			help: "Always 1; the backend, the rules engine and the uplink once they are known.",
			read: func(s *Snapshot) []value {
				return []value{{number: 1, labels: []string{s.Backend, s.Engine, s.Uplink}}}
			},
		},
		{
			name: "weft_ready", kind: gauge, help: "1 if pods can be served now, else 0.",
			read: func(s *Snapshot) []value { return one(truth(s.Ready)) },
		},
		{
			name: "weft_condition", kind: gauge, labels: []string{"condition"},
			help: "1 for each condition of readiness that holds, 0 for each that doesn't.",
			read: func(s *Snapshot) []value {
				return each(s.Conditions, func(ok bool) float64 { return truth(ok) })
			},
		},
		{
			name: "weft_lease_renewed_timestamp_seconds", kind: gauge,
			help: "When our lease was renewed last, as Unix time; absent where leases have no end, as in Kubernetes.",
			read: func(s *Snapshot) []value { return when(s.LeaseRenewed) },
		},
		{
			name: "weft_lease_expires_timestamp_seconds", kind: gauge,
			help: "When our lease ends if it is not renewed, as Unix time; absent likewise.",
			read: func(s *Snapshot) []value { return when(s.LeaseExpires) },
		},
		{
			name: "weft_peers", kind: gauge, help: "Other nodes whose entries are wanted in the kernel.",
			read: func(s *Snapshot) []value { return one(float64(s.Peers)) },
		},
		{
			name: "weft_peers_skipped", kind: gauge, labels: []string{"field"},
			help: "Leases that don't count, by what is wrong with them.",
			read: func(s *Snapshot) []value { return each(s.Skipped, number[int]) },
		},
	}
}

func storeFamilies() []family {
	return []family{
		{
			name: "weft_store_up", kind: gauge, help: "1 while the store can be followed, 0 while it is away.",
			read: func(s *Snapshot) []value { return one(truth(s.StoreUp)) },
		},
		{
			name: "weft_store_outages_total", kind: counter, help: "How often it was away.",
			read: func(s *Snapshot) []value { return one(float64(s.Outages)) },
		},
		{
			name: "weft_store_watch_restarts_total", kind: counter,
			help: "How often watching it ended for good and was begun anew.",
			read: func(s *Snapshot) []value { return one(float64(s.WatchRestarts)) },
		},
		{
			name: "weft_store_heard_timestamp_seconds", kind: gauge,
			help: "When it last said something new, as Unix time; absent before the first time.",
			read: func(s *Snapshot) []value { return when(s.Heard) },
		},
		{
			name: "weft_store_revision", kind: gauge, help: "The revision that was heard last.",
			read: func(s *Snapshot) []value { return one(float64(s.Revision)) },
		},
		{
			name: "weft_store_leases", kind: gauge, help: "Leases in it, ours among them.",
			read: func(s *Snapshot) []value { return one(float64(s.Leases)) },
		},
		{
			name: "weft_store_malformed", kind: gauge, help: "Entries of it that can't be read.",
			read: func(s *Snapshot) []value { return one(float64(s.Malformed)) },
		},
		{
			name: "weft_store_in_doubt", kind: gauge,
			help: "1 while it looks emptied or restored and peers are kept, else 0.",
			read: func(s *Snapshot) []value { return one(truth(s.InDoubt)) },
		},
		{
			name: "weft_store_config_refused", kind: gauge,
			help: "1 while its network configuration can't be followed and the old one is kept, else 0.",
			read: func(s *Snapshot) []value { return one(truth(s.ConfigRefused)) },
		},
		{
			name: "weft_apply_delay_seconds", kind: histogram,
			help: "From a change of peers being heard from the store to its being read back from the kernel.",
			read: func(s *Snapshot) []value { return []value{{histogram: &s.ApplyDelay}} },
		},
	}
}

func requestFamilies() []family {
	return []family{
		{
			name: "weft_store_request_duration_seconds", kind: histogram, labels: []string{"operation"},
			help: "From a request to the store to its answer (in Kubernetes its beginning) or its failing; " +
				"of a watch, until it is there.",
			read: func(s *Snapshot) (out []value) {
				for _, op := range slices.Sorted(maps.Keys(s.StoreTook)) {
					took := s.StoreTook[op].Took
					out = append(out, value{histogram: &took, labels: []string{op}})
				}
				return out
			},
		},
		{
			name: "weft_store_requests_failed_total", kind: counter, labels: []string{"operation"},
			help: "Requests that failed; in Kubernetes also a change that came too late and is tried again.",
			read: func(s *Snapshot) []value {
				return each(s.StoreTook, func(t Timed) float64 { return float64(t.Failed) })
			},
		},
	}
}

func kernelFamilies() []family {
	return []family{
		{
			name: "weft_rounds_total", kind: counter, help: "Passes of the loop that read everything, wrote or failed.",
			read: func(s *Snapshot) []value { return one(float64(s.Rounds)) },
		},
		{
			name: "weft_round_duration_seconds", kind: histogram, help: "How long these took.",
			read: func(s *Snapshot) []value { return []value{{histogram: &s.RoundTook}} },
		},
		{
			name: "weft_kernel_writes_total", kind: counter, labels: []string{"kind"},
			help: "Entries that were written or deleted, by kind.",
			read: func(s *Snapshot) []value { return each(s.Writes, number[uint64]) },
		},
		{
			name: "weft_kernel_refused_total", kind: counter, labels: []string{"kind"},
			help: "Writes that the kernel refused, by kind.",
			read: func(s *Snapshot) []value { return each(s.Refused, number[uint64]) },
		},
		{
			name: "weft_kernel_read_errors_total", kind: counter,
			help: "Passes in which the kernel could not be read, or its notifications broke off.",
			read: func(s *Snapshot) []value { return one(float64(s.ReadErrors)) },
		},
		{
			name: "weft_repairs_total", kind: counter, labels: []string{"kind"},
			help: "Entries that somebody had changed or deleted and that were put right, by kind.",
			read: func(s *Snapshot) []value { return each(s.Repairs, number[int]) },
		},
		{
			name: "weft_fights", kind: gauge, help: "Entries that somebody keeps changing now.",
			read: func(s *Snapshot) []value { return one(float64(s.Fights)) },
		},
		{
			name: "weft_conflicts", kind: gauge, help: "Entries that something foreign holds.",
			read: func(s *Snapshot) []value { return one(float64(s.Conflicts)) },
		},
	}
}

func deviceFamilies() (out []family) {
	for i, f := range []struct{ name, help string }{
		{"receive_bytes", "Bytes that the tunnel's device has received."},
		{"receive_packets", "Packets that it has received."},
		{"receive_errors", "Packets that it could not receive."},
		{"receive_drops", "Packets that it dropped on receipt."},
		{"transmit_bytes", "Bytes that it has sent."},
		{"transmit_packets", "Packets that it has sent."},
		{"transmit_errors", "Packets that it could not send, as those for a peer without an FDB entry."},
		{"transmit_drops", "Packets that it dropped on sending."},
	} {
		out = append(out, family{
			name: "weft_device_" + f.name + "_total", kind: counter, labels: []string{"device"}, help: f.help,
			read: func(s *Snapshot) []value { return each(s.Devices, func(d Device) float64 { return float64(d[i]) }) },
		})
	}
	return out
}

func probeFamilies() []family {
	return []family{
		{
			name: "weft_checksum_offload_disabled", kind: gauge, labels: []string{"device"},
			help: "1 for a device of the tunnel whose checksums are computed here because weftd says so, 0 for any other.",
			read: func(s *Snapshot) []value { return each(s.Checksums, truth) },
		},
		{
			name: "weft_probe_paths", kind: gauge, labels: []string{"state"},
			help: "Paths to peers, one for each address family, by what probes found; absent where nothing is probed.",
			read: func(s *Snapshot) []value { return each(s.Paths, number[int]) },
		},
		{
			name: "weft_probe_rtt_seconds", kind: histogram, help: "Round trips of probes through the overlay.",
			read: func(s *Snapshot) []value { return []value{{histogram: &s.ProbeRTT}} },
		},
		{
			name: "weft_probes_sent_total", kind: counter, labels: []string{"through"},
			help: "Probes that were sent, through the overlay and beside it.",
			read: func(s *Snapshot) []value { return each(s.ProbesSent, number[uint64]) },
		},
		{
			name: "weft_probes_lost_total", kind: counter, labels: []string{"through"},
			help: "Probes that were not answered within a second.",
			read: func(s *Snapshot) []value { return each(s.ProbesLost, number[uint64]) },
		},
		{
			name: "weft_probe_sweep_seconds", kind: gauge,
			help: "How long it took to probe every path once, the last time; 0 before the first.",
			read: func(s *Snapshot) []value { return one(s.Sweep.Seconds()) },
		},
	}
}

func pluginFamilies() []family {
	return []family{
		{
			name: "weft_cni_calls_total", kind: counter, labels: []string{"verb", "result"},
			help: "Calls of the CNI plugin since its counters were made; absent where they can't be read.",
			read: func(s *Snapshot) (out []value) {
				for _, verb := range slices.Sorted(maps.Keys(s.Plugin)) {
					v := s.Plugin[verb]
					out = append(out,
						value{number: float64(v.Done), labels: []string{verb, "done"}},
						value{number: float64(v.Failed), labels: []string{verb, "failed"}})
				}
				return out
			},
		},
		{
			name: "weft_cni_call_duration_seconds", kind: histogram, labels: []string{"verb"},
			help: "How long these took, done or failed, from the plugin's start to its answer.",
			read: func(s *Snapshot) (out []value) {
				for _, verb := range slices.Sorted(maps.Keys(s.Plugin)) {
					out = append(out, value{histogram: s.Plugin[verb].Took, labels: []string{verb}})
				}
				return out
			},
		},
	}
}

func one(n float64) []value { return []value{{number: n}} }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func when(t time.Time) []value {
	if t.IsZero() {
		return nil
	}
	return one(float64(t.UnixMilli()) / 1000)
}

func number[N int | uint64](n N) float64 { return float64(n) }

// each gives a value for each key, which is its label.
func each[V any](m map[string]V, number func(V) float64) (out []value) {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, value{number: number(m[key]), labels: []string{key}})
	}
	return out
}
