package cniplugin

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/hostports"
	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
	"github.com/weftnet/weft/pkg/subnetenv"
)

// occasion is why attachments are looked through for dead ones.
type occasion int

const (
	reboot     occasion = iota // the first ADD of a boot
	exhaustion                 // an ADD finds no free address
)

// young is how old the file of an address that is not ours must be before its
// holder may be dead: whoever wrote it may still be at work.
const young = 5 * time.Minute

// age is how far the clock of the wall is from what it was when a file was
// written, either way: one that lies in the future was written before the clock
// was put back, nobody knows how long ago.
func age(written, now time.Time) time.Duration { return now.Sub(written).Abs() }

// store opens the address store. The first ADD of a boot finds it as the last
// boot left it, and frees what nobody has any more.
func (c Call) store(conf config, k *kernel, env subnetenv.Env, m hostlocal.Machine) (hostlocal.Store, error) {
	store := hostlocal.At(conf.dataDir, conf.network, m)
	switch store.Boot() {
	case m.Boot:
	case "": // never ours yet, or its files were deleted under running pods
		if err := restore(conf, store, m); err != nil {
			return store, explainStore(err)
		}
	default:
		if err := k.reap(conf, store, reboot); err != nil {
			return store, explainStore(err)
		}
	}
	if was, ok := store.Moved(env.Subnets); ok {
		_, _ = fmt.Fprintf(c.Stderr, "weft: the node's subnets are %v, and the last address that was given is %s: "+
			"new pods get the new ones, pods of before keep theirs\n", env.Subnets, was)
	}
	return store, nil
}

// restore reserves again what running pods have by their records, where nobody has it.
func restore(conf config, store hostlocal.Store, m hostlocal.Machine) error {
	records, err := conf.records.Load()
	if err != nil && !errors.As(err, new(*attachment.DamagedError)) {
		return explainRecord(err)
	}
	for _, r := range records {
		if dead, err := isDead(conf, r, m); err != nil || dead || r.Network != conf.network {
			continue
		}
		if _, err := store.Hold(holderOf(r.Key), addrsOf(r)); err != nil {
			return err
		}
	}
	return store.Reboot()
}

// reap frees what the dead hold. An attachment of ours is dead if its record is
// of another boot, or if the host's end of its pair is gone and nobody is at
// work on it. An address without a record, another plugin's, is not in use if no
// network namespace of this machine has it, and its file is older than this boot;
// or, where addresses have run out, not of these minutes. The clock of the wall
// alone frees nothing: it may have jumped.
func (k *kernel) reap(conf config, store hostlocal.Store, why occasion) error {
	if err := k.reapRecords(conf); err != nil {
		return err
	}
	m, now := machine(), time.Now()
	least := young
	if why == reboot {
		least = m.Uptime
	}
	live := sync.OnceValues(liveAddrs) // looked for when there is one to judge
	var unsure error
	_, err := store.Reclaim(func(e hostlocal.Entry) bool {
		if conf.recorded(e.Holder) || age(e.Since, now) <= least {
			return false
		}
		addrs, err := live()
		unsure = err
		return err == nil && !addrs[e.Addr]
	})
	if why == exhaustion { // else what may be in use just stays
		err = errors.Join(err, unsure)
	}
	if err != nil {
		return err
	}
	return store.Reboot()
}

// reapRecords removes all of the attachments of ours that are dead.
func (k *kernel) reapRecords(conf config) error {
	m := machine()
	records, err := conf.records.Load()
	if err != nil && !errors.As(err, new(*attachment.DamagedError)) {
		return explainRecord(err)
	}
	for _, r := range records {
		if r.Network != conf.network {
			continue
		}
		dead, err := isDead(conf, r, m)
		if err == nil && dead {
			err = k.remove(conf, request{containerID: r.Container, ifName: r.Interface})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// recorded tells whether there is a record of the holder's.
func (c config) recorded(h hostlocal.Holder) bool {
	_, err := c.records.Get(attachment.Key{Network: c.network, Container: h.ContainerID, Interface: h.IfName})
	return err == nil
}

func isDead(conf config, r attachment.Attachment, m hostlocal.Machine) (bool, error) {
	if conf.records.Busy(r.Key) {
		return false, nil
	}
	if r.Boot != m.Boot {
		return true, nil
	}
	there, err := hasHostLink(r.HostLink)
	return !there, err
}

// collect is GC: everything goes whose attachment is not in the list.
func (c Call) collect(conf config, req request) error {
	valid, err := conf.valid()
	if err != nil {
		return err
	}
	k, err := openHost()
	if err != nil {
		return err
	}
	defer k.close()
	keys, err := conf.records.Keys()
	if err != nil {
		return explainRecord(err)
	}
	var errs []error
	for _, key := range keys {
		if key.Network == conf.network && !valid[holderOf(key)] && !conf.records.Busy(key) {
			errs = append(errs, c.collectOne(conf, req, k, holderOf(key)))
		}
	}
	errs = append(errs, c.collectSaved(conf, req, valid))
	// Addresses without a record: flannel's time, or a record that was lost.
	store := hostlocal.At(conf.dataDir, conf.network, machine())
	_, err = store.Reclaim(func(e hostlocal.Entry) bool {
		return !valid[e.Holder] && !valid.container(e.Holder) && !conf.recorded(e.Holder)
	})
	errs = append(errs, explainStore(err), sweepPorts(conf), sweepGuards(conf))
	return errors.Join(errs...)
}

// collectOne is a DEL without a namespace.
func (c Call) collectOne(conf config, req request, k *kernel, h hostlocal.Holder) error {
	gone := request{containerID: h.ContainerID, ifName: h.IfName, path: req.path}
	if err := k.remove(conf, gone); err != nil {
		return fmt.Errorf("collect %s: %w", h, err)
	}
	if err := savedOf(conf.savedDir, gone).remove(conf.network); err != nil {
		return fmt.Errorf("collect %s: %w", h, err)
	}
	return nil
}

// collectSaved has delegates undo what they did for attachments that are gone.
func (c Call) collectSaved(conf config, req request, valid attachments) error {
	var errs []error
	for _, h := range savedHolders(conf.savedDir, conf.network) {
		if valid[h] {
			continue
		}
		if err := c.del(conf, request{containerID: h.ContainerID, ifName: h.IfName, path: req.path}); err != nil {
			errs = append(errs, fmt.Errorf("collect %s: %w", h, err))
		}
	}
	return errors.Join(errs...)
}

// sweepPorts removes host ports that lead to no pod that has a record. Where a
// record can't be read, a port may be its pod's, and all stay.
func sweepPorts(conf config) error {
	ports, err := hostports.Open()
	if err == nil {
		err = ports.Sweep(conf.records.Load)
		ports.Close()
	}
	if errors.As(err, new(*attachment.DamagedError)) {
		return nil
	}
	if err != nil {
		return refused("collect host ports", err)
	}
	return nil
}

func holderOf(k attachment.Key) hostlocal.Holder {
	return hostlocal.Holder{ContainerID: k.Container, IfName: k.Interface}
}

// attachments is a set of those that are in use.
type attachments map[hostlocal.Holder]bool

// container tells whether a file of old, which names the container only, is of
// one that is in use.
func (a attachments) container(h hostlocal.Holder) bool {
	if h.IfName != "" {
		return false
	}
	for other := range a {
		if other.ContainerID == h.ContainerID {
			return true
		}
	}
	return false
}

// valid is the list that GC is given. None at all is an error: it would mean
// that no pod is left.
func (c config) valid() (attachments, error) {
	if c.runtime.ValidAttachments == nil {
		return nil, invalid("cni.dev/valid-attachments is missing", "GC is for a container runtime to call, with its list")
	}
	out := attachments{}
	for _, a := range c.runtime.ValidAttachments {
		out[hostlocal.Holder{ContainerID: a.ContainerID, IfName: a.IfName}] = true
	}
	return out, nil
}

// status tells whether an ADD would fail now. Codes: CNI 1.1, "STATUS".
func (c Call) status(conf config) error {
	env, err := readEnv(conf.subnetFile)
	if err == nil {
		err = c.wouldFit(conf, env)
	}
	if err == nil {
		return nil
	}
	return unavailable(err)
}

func (c Call) wouldFit(conf config, env subnetenv.Env) error {
	if conf.delegation != nil {
		rendered, err := conf.delegation.render(env)
		if err != nil {
			return err
		}
		own, foreign := rendered.inProcess(conf)
		if foreign != "" {
			kind, _ := rendered.text("type", "")
			_, err := findPlugin(kind, c.Getenv("CNI_PATH"))
			return explainAbsent(err, foreign)
		}
		conf = own
		conf.needMasq = false // else the bridge plugin is run
	}
	if err := conf.fits(env); err != nil {
		return err
	}
	store := hostlocal.At(conf.dataDir, conf.network, machine())
	err := store.Room(env.Subnets)
	if !errors.As(err, new(*hostlocal.ExhaustedError)) {
		return explainStore(err)
	}
	// An ADD would free what the dead hold; asking changes nothing, so it is
	// only looked whether there are any.
	records, _ := conf.records.Load()
	m := machine()
	if slices.ContainsFunc(records, func(r attachment.Attachment) bool {
		dead, err := isDead(conf, r, m)
		return err == nil && dead && r.Network == conf.network
	}) {
		return nil
	}
	return explainStore(err)
}
