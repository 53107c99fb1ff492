package cniplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
	"github.com/weftnet/weft/pkg/subnetenv"
)

// add attaches a pod, or has the delegate do so.
func (c Call) add(conf config, req request) ([]byte, error) {
	env, err := readEnv(conf.subnetFile)
	if err != nil {
		return nil, err
	}
	if conf.delegation == nil {
		return c.attach(conf, req, env, nil)
	}
	rendered, err := conf.delegation.render(env)
	if err != nil {
		return nil, err
	}
	own, foreign := rendered.inProcess(conf)
	if foreign == "" && own.needMasq && !env.IPMasq {
		foreign = "ipMasq, as weftd runs without --ip-masq"
	}
	if foreign == "" {
		// What DEL need not undo: weftd masquerades.
		rendered["ipMasq"] = json.RawMessage("false")
		return c.attach(own, req, env, rendered)
	}
	if conf.spoofing.said && !conf.spoofing.allows(req.args) {
		return nil, invalid("allowSpoofing can't be kept from a pod that another plugin attaches ("+foreign+")",
			"leave allowSpoofing out, or what makes the other plugin necessary")
	}
	// The delegate may fail half way, so that DEL has to find this.
	if err := savedOf(conf.savedDir, req).put(rendered, true); err != nil {
		return nil, err
	}
	out, err := execute("ADD", req, rendered, c.Stderr)
	return out, explainAbsent(err, foreign)
}

// attaching is one ADD under way: what it has done, for undo.
type attaching struct {
	conf   config
	req    request
	kernel *kernel
	store  hostlocal.Store
	boot   string
	save   document // nil where flannel's plugin would need nothing
	stderr io.Writer

	plan     plan
	record   attachment.Attachment
	recorded func() // not nil: the record is there, and ours to finish
	reserved []netip.Addr
	paired   bool
}

// attach attaches a pod. What it did is undone when any step goes wrong, the
// address last: it is not free while an interface may have it. toSave is nil
// where DEL needs nothing.
func (c Call) attach(conf config, req request, env subnetenv.Env, toSave document) (out []byte, err error) {
	if err := conf.fits(env); err != nil {
		return nil, err
	}
	w, err := wishOf(conf.runtime, req.args)
	if err != nil {
		return nil, err
	}
	prev, err := previous(conf)
	if err != nil {
		return nil, err
	}
	k, err := openPod(req.netns)
	if err != nil {
		return nil, err
	}
	defer k.close()
	m := machine()
	store, err := c.store(conf, k, env, m)
	if err != nil {
		return nil, err
	}
	a := &attaching{conf: conf, req: req, kernel: k, store: store, boot: m.Boot, save: toSave, stderr: c.Stderr}
	if err := a.unattached(); err != nil {
		return nil, err
	}
	bridge, err := k.ensureBridge(newBridge(conf, env))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = alsoUndo(err, a.undo())
		}
		if a.recorded != nil {
			a.recorded()
		}
	}()
	if err := a.reserve(env, w, bridge); err != nil {
		return nil, err
	}
	if err := a.connect(bridge); err != nil {
		return nil, err
	}
	return encode(result(prev, a.plan, bridge, req, conf.dns), prev != nil, conf.version)
}

// unattached tells whether there may be an attachment. What an ADD that was
// killed left of the same one is cleaned up.
func (a *attaching) unattached() error {
	have, err := a.conf.records.Get(a.req.key(a.conf.network))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil && !errors.As(err, new(*attachment.DamagedError)) {
		return explainRecord(err)
	}
	there := false
	if err == nil && have.Boot == a.boot {
		if there, err = hasHostLink(have.HostLink); err != nil {
			return err
		}
	}
	if there && len(have.Addrs) > 0 {
		return types.NewError(codeTaken, fmt.Sprintf("%s has address %s already", a.req.holder(), have.Addrs[0].Addr()),
			"CNI wants a DEL before the second ADD")
	}
	return a.kernel.remove(a.conf, a.req)
}

// reserve chooses the addresses. The record is written before they are, and
// both under the store's lock: an address of ours always has its record.
func (a *attaching) reserve(env subnetenv.Env, w wish, bridge hostLink) error {
	r := hostlocal.Request{
		Holder: a.req.holder(), Subnets: env.Subnets, Wanted: w.addrs,
		Commit: func(addrs []netip.Addr) (err error) {
			a.plan = newPlan(a.conf, a.req, env, w, addrs)
			a.record = a.newRecord(bridge)
			if err := fitsPorts(a.record); err != nil {
				return err
			}
			a.recorded, err = a.conf.records.Begin(a.record)
			if err != nil {
				return explainRecord(err)
			}
			return nil
		},
	}
	var err error
	a.reserved, err = a.store.Reserve(r)
	if errors.As(err, new(*hostlocal.ExhaustedError)) {
		// The dead keep nobody waiting.
		if errReap := a.kernel.reap(a.conf, a.store, exhaustion); errReap != nil {
			return explainStore(errors.Join(err, errReap))
		}
		a.reserved, err = a.store.Reserve(r)
	}
	return explainStore(err)
}

// connect is what is done when the addresses are there.
func (a *attaching) connect(bridge hostLink) error {
	if a.save != nil {
		if err := savedOf(a.conf.savedDir, a.req).put(a.save, false); err != nil {
			return err
		}
	}
	if err := a.kernel.createPair(a.plan); err != nil {
		return err
	}
	a.paired = true
	if err := guardPod(a.record, a.conf.records, a.stderr); err != nil {
		return err
	}
	if err := a.kernel.connect(a.plan, bridge); err != nil {
		return err
	}
	return a.kernel.addPorts(a.record, func() error {
		if err := a.kernel.reapRecords(a.conf); err != nil {
			return err
		}
		return sweepPorts(a.conf)
	})
}

// undo leaves what was there before. Where that fails the record stays, so that
// DEL or GC finds the rest.
func (a *attaching) undo() error {
	if a.recorded == nil {
		return nil
	}
	if a.paired {
		if err := a.kernel.removePorts(a.record); err != nil {
			return err
		}
		if err := a.kernel.unguardPod(a.record, a.record.HostLink, true); err != nil {
			return err
		}
		if err := a.kernel.undo(a.plan); err != nil {
			return err
		}
	}
	if _, err := a.store.Release(a.req.holder(), a.reserved); err != nil {
		return err
	}
	if a.save != nil {
		if err := savedOf(a.conf.savedDir, a.req).remove(a.conf.network); err != nil {
			return err
		}
	}
	return a.conf.records.Remove(a.record.Key)
}

// fitsPorts refuses ports of an address of a family that the pod doesn't have:
// they would lead nowhere.
func fitsPorts(a attachment.Attachment) error {
	for _, p := range a.Ports {
		if p.HostIP.IsValid() && !slices.ContainsFunc(a.Addrs, func(pod netip.Prefix) bool {
			return pod.Addr().BitLen() == p.HostIP.BitLen()
		}) {
			return invalid(fmt.Sprintf("host port %d/%s of %s: the pod has no address of this family",
				p.Host, p.Protocol, p.HostIP), "leave hostIP out, or run a cluster of both families")
		}
	}
	return nil
}
