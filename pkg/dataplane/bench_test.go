package dataplane

import "testing"

const manyPeers = 10_000

func many() State {
	s := base()
	for n := 2; n < manyPeers+2; n++ {
		s.Merge(fragment(n, n))
	}
	return s
}

// A full audit of a converged node: every entry is compared, none is written.
func BenchmarkDiffConverged(b *testing.B) {
	want, have := many(), many()
	b.ReportAllocs()
	for b.Loop() {
		if !Diff(want, Observed{Have: have}).Empty() {
			b.Fatal("not converged")
		}
	}
}

// A fresh start: every entry becomes an op.
func BenchmarkDiffFromNothing(b *testing.B) {
	want := many()
	b.ReportAllocs()
	for b.Loop() {
		if len(Diff(want, Observed{}).Ops) != want.Len() {
			b.Fatal("not everything is planned")
		}
	}
}
