package cniplugin

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
)

// del detaches a pod in the way in which it was attached, by us or by flannel's
// plugin, which was saved for all delegates. Without that it was we.
func (c Call) del(conf config, req request) error {
	file := savedOf(conf.savedDir, req)
	rendered, err := file.get(conf.network)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = c.detach(conf, req)
	case errors.As(err, new(*damagedError)):
		_, _ = fmt.Fprintf(c.Stderr, "weft: %v; what a delegate did for it can't be undone\n", err)
		err = c.detach(conf, req)
	case err != nil:
		return explainSaved(fmt.Errorf("read what was saved for %s: %w", req.holder(), err))
	default:
		err = c.delSaved(conf, req, rendered)
	}
	if err != nil {
		return err
	}
	return file.remove(conf.network)
}

func (c Call) delSaved(conf config, req request, rendered document) error {
	own, local := rendered.local(conf)
	foreign := rendered.foreign()
	if raw, there := rendered["ipMasq"]; foreign == "" && there && !off(raw) {
		foreign = "ipMasq" // a chain of iptables per pod
	}
	if foreign == "" {
		return c.detach(own, req)
	}
	_, err := execute("DEL", req, rendered, c.Stderr)
	if local && errors.As(err, new(*absentError)) {
		_, _ = fmt.Fprintf(c.Stderr, "weft: %v; what it did for %s may stay\n", err, foreign)
		return c.detach(own, req)
	}
	return explainAbsent(err, "")
}

// detach detaches a pod, whatever of it is left.
func (c Call) detach(conf config, req request) error {
	k, err := openHost()
	if err != nil {
		return err
	}
	defer k.close()
	return k.remove(conf, req)
}

// claimPatience is for weftd that mends an attachment, which takes some ms.
const claimPatience = 2 * time.Second

// remove takes away all of an attachment that is left: by its record, else by
// what can be found. The address is freed when nothing has it any more: as long
// as an interface may have it, nobody else can. A record may name one that is
// another's by now (an ADD was killed before it reserved it, or a DEL when it had freed
// it): all that goes by the address is his then. The record goes last, and until then
// weftd mends nothing of it: a guard that is put back when the link is gone would stay.
func (k *kernel) remove(conf config, req request) error {
	key := req.key(conf.network)
	defer conf.records.Claim(key, claimPatience)()
	record, err := conf.records.Get(key)
	damaged := errors.As(err, new(*attachment.DamagedError))
	if err != nil && !damaged && !errors.Is(err, fs.ErrNotExist) {
		return explainRecord(err)
	}
	known := err == nil
	store := hostlocal.At(conf.dataDir, conf.network, machine())
	own, held, unsure := holding(store, req.holder(), record, known)
	if err := k.removeAnyPorts(conf.network, req, own, known); err != nil {
		return err
	}
	if err := k.unguardPod(record, hostName(conf.network, req), known); err != nil {
		return err
	}
	if err := k.detach(hostName(conf.network, req), req); err != nil {
		return err
	}
	if err := k.removePortsAgain(own); err != nil {
		return err
	}
	if err := k.unproxy(conf.bridge, held); err != nil {
		return err
	}
	if err := k.retire(conf, record); err != nil {
		return err
	}
	if _, err := store.Release(req.holder(), held); err != nil {
		return explainStore(err)
	}
	if unsure != nil { // told when all else is gone
		return explainStore(unsure)
	}
	if err := conf.records.Remove(key); err != nil {
		return explainRecord(err)
	}
	return nil
}

// holding gives the addresses that the pod has, and its record without others.
func holding(store hostlocal.Store, h hostlocal.Holder, record attachment.Attachment, known bool) (
	own attachment.Attachment, held []netip.Addr, err error,
) {
	if !known {
		held, err = store.Held(h)
		return record, held, err
	}
	held, err = store.Hold(h, addrsOf(record))
	record.Addrs = slices.DeleteFunc(slices.Clone(record.Addrs), func(p netip.Prefix) bool {
		return !slices.Contains(held, p.Addr())
	})
	return record, held, err
}
