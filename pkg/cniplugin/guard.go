package cniplugin

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/guard"
)

// unguarded is the file in the directory of records that has the boot in which
// this kernel was found to be unable to guard, so that it is said once.
const unguarded = ".unguarded"

// guardPod keeps the pod from sending as somebody else. A kernel that can't is no
// reason for a pod to fail.
func guardPod(a attachment.Attachment, dir attachment.Dir, stderr io.Writer) error {
	s, guarded := a.Sources()
	if !guarded {
		return nil
	}
	err := guard.Put(s)
	if errors.Is(err, guard.ErrUnsupported) {
		sayUnguarded(err, a.Boot, dir, stderr)
		return nil
	}
	if err != nil {
		return refused("guard the pod's link", err)
	}
	return nil
}

func sayUnguarded(why error, boot string, dir attachment.Dir, stderr io.Writer) {
	if saidUnguarded(boot, dir) {
		return
	}
	// If it can't be written, it is said again.
	_ = os.WriteFile(filepath.Join(string(dir), unguarded), []byte(boot), 0o600)
	_, _ = fmt.Fprintf(stderr, "weft: %v: pods can send with addresses that are not theirs (this is said once)\n", why)
}

// saidUnguarded tells whether ADD found that this kernel can't.
func saidUnguarded(boot string, dir attachment.Dir) bool {
	said, err := os.ReadFile(filepath.Join(string(dir), unguarded))
	return err == nil && string(said) == boot
}

// unguardPod takes a link's guard away. It goes before the link, so that the
// kernel does its waiting for both (RCU) at once.
func (k *kernel) unguardPod(a attachment.Attachment, link string, known bool) error {
	s, guarded := a.Sources()
	if known && !guarded {
		return nil
	}
	g, err := guard.Open()
	if err == nil {
		k.later = append(k.later, g.Close)
		if known {
			err = g.Remove(s)
		} else {
			err = g.RemoveLink(link)
		}
	}
	if err != nil && !errors.Is(err, guard.ErrUnsupported) {
		return refused("remove the guard of the pod's link", err)
	}
	return nil
}

// sweepGuards removes the guards of links that are not there and of which no
// record tells. Records are read after the guards, as ADD writes its record
// first; where one can't be read, all guards stay.
func sweepGuards(conf config) error {
	have, err := guard.Read()
	if err != nil {
		return refused("read the guards of pods' links", err)
	}
	links := have.Links()
	if len(links) == 0 {
		return nil
	}
	records, err := conf.records.Load()
	if errors.As(err, new(*attachment.DamagedError)) {
		return nil
	}
	if err != nil {
		return explainRecord(err)
	}
	known := map[string]bool{}
	for _, r := range records {
		known[r.HostLink] = true
	}
	g, err := guard.Open()
	if err != nil {
		return refused("open nftables", err)
	}
	defer g.Close()
	var errs []error
	for _, link := range links {
		there, err := hasHostLink(link)
		if err == nil && !there && !known[link] {
			err = g.RemoveLink(link)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
