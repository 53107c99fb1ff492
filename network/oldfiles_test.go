package network

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestStateOfOtherReleasesIsRead reads what the first release wrote, and a file
// with fields that none knows yet: testdata/state-* must never be written anew.
func TestStateOfOtherReleasesIsRead(t *testing.T) {
	for _, dir := range []string{"testdata/state-first", "testdata/state-later"} {
		t.Run(dir, func(t *testing.T) {
			lease, snapshot, _, err := files{dir: dir}.load()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(someLease, lease, comparePrefixes); d != "" {
				t.Errorf("lease (-want +have)\n%s", d)
			}
			if d := cmp.Diff(someSnapshot(t), snapshot, comparePrefixes); d != "" {
				t.Errorf("snapshot (-want +have)\n%s", d)
			}
		})
	}
}
