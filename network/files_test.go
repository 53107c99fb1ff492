package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/subnet"
)

var someLease = subnet.Lease{
	ID: "10.42.1.0-24", Backend: "vxlan", Created: 7, Revision: 9,
	Shares: []subnet.Share{{
		Subnet: netip.MustParsePrefix("10.42.1.0/24"), Public: netip.MustParseAddr("192.168.77.1"),
		Data: []byte(`{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`),
	}},
}

func someSnapshot(t *testing.T) subnet.Snapshot {
	t.Helper()
	cfg, err := subnet.ParseConfig([]byte(`{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}`))
	if err != nil {
		t.Fatal(err)
	}
	return subnet.Snapshot{Epoch: "e", Revision: 9, Config: cfg, Leases: []subnet.Lease{someLease}}
}

var comparePrefixes = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})

func TestSavedStateComesBack(t *testing.T) {
	f := files{dir: filepath.Join(t.TempDir(), "state")}
	want := someSnapshot(t)
	if err := f.saveLease(someLease, origin{}); err != nil {
		t.Fatal(err)
	}
	if err := f.saveSnapshot(want, false); err != nil {
		t.Fatal(err)
	}
	lease, snapshot, _, err := f.load()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(someLease, lease, comparePrefixes); d != "" {
		t.Errorf("lease (-want +have)\n%s", d)
	}
	if d := cmp.Diff(want, snapshot, comparePrefixes); d != "" {
		t.Errorf("snapshot (-want +have)\n%s", d)
	}
}

// A backend that says nothing to its peers still does after a restart.
func TestSavedSilenceIsSilence(t *testing.T) {
	f := files{dir: filepath.Join(t.TempDir(), "state")}
	silent := someLease
	silent.Shares = []subnet.Share{{Subnet: someLease.Shares[0].Subnet, Public: someLease.Shares[0].Public}}
	if err := f.saveLease(silent, origin{}); err != nil {
		t.Fatal(err)
	}
	lease, _, _, err := f.load()
	if d := cmp.Diff(silent, lease, comparePrefixes); d != "" || err != nil {
		t.Errorf("%v (-want +have)\n%s", err, d)
	}
}

func TestNothingSavedIsNoError(t *testing.T) {
	lease, snapshot, _, err := files{dir: t.TempDir()}.load()
	if err != nil || lease.ID != "" || len(snapshot.Leases) != 0 {
		t.Errorf("have %v, %v, %v; want nothing", lease, snapshot, err)
	}
}

// TestDamagedStateIsLeftOut flips, cuts and empties the files: no damage may be
// taken for a lease.
func TestDamagedStateIsLeftOut(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"a bit flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut in half":   func(b []byte) []byte { return b[:len(b)/2] },
		"empty":         func([]byte) []byte { return nil },
		"another file":  func([]byte) []byte { return []byte("{}") },
	} {
		t.Run(name, func(t *testing.T) {
			f := files{dir: t.TempDir()}
			if err := f.saveLease(someLease, origin{}); err != nil {
				t.Fatal(err)
			}
			path := f.path(leaseFile)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(content), 0o600); err != nil {
				t.Fatal(err)
			}
			lease, _, _, err := f.load()
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v does not name %s", err, path)
			}
			if lease.ID != "" {
				t.Errorf("lease %v was taken from a damaged file", lease)
			}
		})
	}
}

func TestSavingFailsWithTheFileNamed(t *testing.T) {
	notADir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notADir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (files{dir: notADir}).saveLease(someLease, origin{}); err == nil || !strings.Contains(err.Error(), notADir) {
		t.Errorf("error %v does not name %s", err, notADir)
	}
}

func FuzzSavedState(f *testing.F) {
	f.Add([]byte("x\n{}"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, content []byte) {
		files := files{dir: t.TempDir()}
		if err := os.WriteFile(files.path(snapshotFile), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, s, _, err := files.load(); err == nil && len(s.Leases) > 0 {
			t.Errorf("a snapshot out of %q", content)
		}
	})
}
