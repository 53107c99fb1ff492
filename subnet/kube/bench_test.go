package kube_test

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/subnet"
)

// BenchmarkHeartbeats is a cluster of 5,000 nodes whose kubelets beat twice
// each: ten minutes, as a kubelet whose Node doesn't change writes it every
// five. The server is in this process, so CPU includes its part.
func BenchmarkHeartbeats(b *testing.B) {
	const nodes, rounds = 5000, 2
	for _, protobuf := range []bool{true, false} {
		b.Run(map[bool]string{true: "protobuf", false: "JSON"}[protobuf], func(b *testing.B) {
			c := newCluster(b)
			c.Modes(true, protobuf)
			for i := range nodes {
				name := fmt.Sprintf("node-%d", i)
				c.join(name, fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), fmt.Sprintf("192.168.%d.%d", i/256, i%256))
				c.Change(name, kubelet)
			}
			c.Forget() // the history would weigh more than what is measured
			s, _ := c.open(b)
			to := make(chan subnet.Snapshot)
			ctx := b.Context()
			before := heap()
			began := time.Now()
			go func() { _ = s.Watch(ctx, to) }()
			if first := <-to; len(first.Leases) != nodes {
				b.Fatalf("%d leases", len(first.Leases))
			}
			start, kept := time.Since(began), int64(heap())-int64(before)
			sent, cpu := c.Sent(), used()
			b.ResetTimer()
			for b.Loop() {
				for range rounds {
					for i := range nodes {
						c.beat(fmt.Sprintf("node-%d", i))
					}
				}
				news := fmt.Sprintf(`{"VNI":1,"n":%d}`, time.Now().UnixNano())
				c.Annotate("node-0", map[string]string{prefix + "backend-data": news})
				<-to // all that came before was taken
				c.Forget()
			}
			b.ReportMetric(float64(start.Milliseconds()), "ms/start")
			b.ReportMetric(float64(sent)/1e6, "MB/start")
			b.ReportMetric(float64(kept)/1e6, "MB/kept")
			b.ReportMetric(float64(c.Sent()-sent)/1e6/float64(b.N), "MB/op")
			b.ReportMetric((used()-cpu).Seconds()/float64(b.N), "cpu-s/op")
		})
	}
}

// kubelet fills in what a real Node is full of.
func kubelet(n *corev1.Node) {
	now := metav1.Now()
	for _, kind := range []corev1.NodeConditionType{"MemoryPressure", "DiskPressure", "PIDPressure", "Ready"} {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
			Type: kind, Status: "False", LastHeartbeatTime: now, LastTransitionTime: now,
			Reason: "KubeletHas", Message: "kubelet has no such thing",
		})
	}
	for i := range 50 { // as many as a kubelet reports
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{
			Names: []string{
				fmt.Sprintf("registry.example.com/team/image-%d@sha256:%064d", i, i),
				fmt.Sprintf("registry.example.com/team/image-%d:v1.%d", i, i),
			},
			SizeBytes: 123456789,
		})
	}
	n.Labels = map[string]string{}
	for i := range 20 {
		n.Labels[fmt.Sprintf("topology.example.com/label-%d", i)] = "value"
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// used is this process's CPU time.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
