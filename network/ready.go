package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/network/events"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
	"github.com/weftnet/weft/pkg/subnetenv"
)

// The conditions of readiness: this node can serve pods now. A peer that is
// left out, or a store that is away, is none of them.
const (
	conditionUplink    = "uplink"      // configuration, interface and addresses are known
	conditionLease     = "lease"       // a subnet is ours
	conditionDataplane = "dataplane"   // device, addresses and rules stand, first snapshot programmed
	conditionFile      = "subnet file" // subnet.env is there for the CNI plugin
	conditionSubnet    = "subnet"      // no pod here has an address of a subnet that is another node's now
)

// ledger is what the rounds of the loop add up to. Guarded by Node.mu.
type ledger struct {
	programmed bool              // a full round after the layers were set left nothing
	broken     map[string]string // base entries that are not as wanted, and why
	factsDue   bool
	took       time.Duration // of the last round
	rounds     int
	ops        int
	drift      drift
	complaints complaints
	tally      tally
	commands   map[string]string // failures that the log was told, by task
}

// onRound takes the loop's report. It must not block.
func (n *Node) onRound(r reconcile.Round) {
	if errors.Is(r.Err, context.Canceled) {
		return // we are stopping, and nothing is known about the kernel
	}
	n.mu.Lock()
	n.ledger.add(r)
	n.ledger.tally.round(r, time.Now())
	tell := n.ledger.drift.note(r, time.Now())
	refused, conflicts := n.ledger.complaints.fresh(r)
	fought := len(n.ledger.drift.seen) > 0 && r.Repaired == len(r.Applied.Ops)
	n.mu.Unlock()
	n.logRound(r, fought)
	n.logComplaints(refused, conflicts)
	n.logFights(tell)
	n.tellRound(r, fought, tell, refused, conflicts)
	n.LookAgain()
}

// onFacts is told that the host has changed. It must not block.
func (n *Node) onFacts() {
	n.mu.Lock()
	n.ledger.factsDue = true
	n.mu.Unlock()
	n.LookAgain()
}

func (l *ledger) add(r reconcile.Round) {
	l.took = r.Took
	l.rounds++
	l.ops += len(r.Applied.Ops)
	if l.broken == nil || r.Full {
		l.broken = map[string]string{}
		l.factsDue = true
	}
	if r.Err != nil {
		l.broken["kernel"] = r.Err.Error()
		return
	}
	delete(l.broken, "kernel")
	for _, op := range r.Applied.Ops {
		if len(l.broken) == 0 {
			break // nearly always: don't name thousands of entries for nothing
		}
		delete(l.broken, op.Entry())
	}
	failed := map[string]string{}
	for _, f := range r.Failed {
		failed[f.Op.Entry()] = f.Err.Error()
	}
	for _, op := range r.Left.Ops {
		if baseKind(op.Kind) && !harmless(op) {
			reason := failed[op.Entry()]
			if reason == "" {
				reason = "is not as wanted: " + op.String()
			}
			l.broken[op.Entry()] = reason
		}
	}
	for _, op := range r.Left.Conflicts {
		if baseKind(op.Kind) {
			l.broken[op.Entry()] = conflictText(op)
		}
	}
	l.programmed = l.programmed || r.Full
}

// harmless is a chain that should go and can't, as flannel's in legacy tables
// where no program of theirs is installed: the rules that we want stand beside
// it, and pods can be served.
func harmless(op dataplane.Op) bool {
	return op.Kind == dataplane.KindChain && op.Verb == dataplane.Delete
}

func conflictText(op dataplane.Op) string {
	if op.Kind == dataplane.KindLink {
		return fmt.Sprintf("a foreign device has this name; remove or rename it: ip link delete %v", op.Key)
	}
	return "something that is not weft's stands there; remove it, or keep it off weft's networks"
}

// err is why the data plane can't serve pods, or nil.
func (l *ledger) err() error {
	if !l.programmed {
		return errors.New("the kernel is not programmed yet")
	}
	var reasons []string
	for entry, why := range l.broken {
		reasons = append(reasons, entry+": "+why)
	}
	if len(reasons) == 0 {
		return nil
	}
	slices.Sort(reasons)
	return errors.New(strings.Join(reasons, "; "))
}

// judgeReadiness brings the conditions up to date, and hands the node over to
// the CNI plugin and to systemd when it can serve pods.
func (n *Node) judgeReadiness() {
	configured := n.pieces.base != nil
	n.mu.Lock()
	dataErr := n.ledger.err()
	n.mu.Unlock()
	if !configured {
		dataErr = errors.New("nothing to program yet")
	}
	n.opts.Health.Set(conditionDataplane, dataErr)
	if dataErr == nil && n.view.lease.ID != "" {
		err := subnetenv.Write(n.opts.SubnetFile, n.env())
		n.opts.Health.Set(conditionFile, err)
		if err != nil {
			n.once("subnet file "+err.Error(), func(log logrus.FieldLogger) {
				log.WithError(err).Error("the CNI plugin gets no subnet file; free or remount the file system, weftd tries again")
			})
		}
	}
	n.judgeCommands()
	n.announceReadiness(n.opts.Health.Ready())
}

// env is what the CNI plugin is told.
func (n *Node) env() subnetenv.Env {
	h := n.pieces.host
	env := subnetenv.Env{IPMasq: n.opts.Masquerade}
	for _, w := range h.Config.Networks {
		env.Networks = append(env.Networks, w.Prefix)
	}
	for _, s := range h.Lease.Shares {
		env.Subnets = append(env.Subnets, s.Subnet)
	}
	if b, err := n.backend(h.Config); err == nil {
		env.MTU = b.MTU(h)
	}
	return env
}

// announceReadiness tells changes to the log and to systemd (sd_notify(3)).
func (n *Node) announceReadiness(notReady error) {
	was := n.setReady(notReady == nil)
	if was != (notReady == nil) {
		select {
		case n.turned <- struct{}{}:
		default: // told already
		}
	}
	switch {
	case notReady == nil && !was:
		after := time.Since(n.started).Round(time.Millisecond)
		n.opts.Log.WithField("after", after.String()).Info("ready: pods can be served")
		n.happened(events.Ready, "", "")
		n.notify(daemon.SdNotifyReady + "\nSTATUS=serving pods")
	case notReady != nil && was:
		n.opts.Log.WithError(notReady).Warn("not ready: pods can't be served")
		n.happened(events.NotReady, "", oneLine(notReady))
		n.notify("STATUS=not ready: " + oneLine(notReady))
	}
}

func (n *Node) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.once("notify "+err.Error(), func(log logrus.FieldLogger) { log.WithError(err).Warn("systemd was not told") })
	}
}

// feedWatchdog tells systemd that this process is not stuck, where the unit has
// WatchdogSec. It takes nobody's word for it but that of /livez.
func (n *Node) feedWatchdog(ctx context.Context) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil || limit == 0 {
		return nil // nobody waits for us to bark
	}
	tick := time.NewTicker(limit / 2)
	defer tick.Stop()
	for {
		if err := n.opts.Health.Live(); err == nil {
			n.notify(daemon.SdNotifyWatchdog)
		} else {
			n.opts.Log.WithError(err).Error("this process is wedged; systemd may restart it")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (n *Node) notifyStopping() { n.notify(daemon.SdNotifyStopping) }

// debugs tells whether somebody reads debug lines. There is one for each entry.
func debugs(log logrus.FieldLogger) bool {
	switch l := log.(type) {
	case *logrus.Logger:
		return l.IsLevelEnabled(logrus.DebugLevel)
	case *logrus.Entry:
		return l.Logger.IsLevelEnabled(logrus.DebugLevel)
	}
	return true
}

// logRound says what an operator must know about a round: what was mended or
// went wrong. Each op is for debugging, and so is each blow of a fight.
func (n *Node) logRound(r reconcile.Round, fought bool) {
	log := n.opts.Log
	if r.Err != nil {
		log.WithError(r.Err).Warn("reading the kernel failed; trying again")
		return
	}
	if debugs(log) {
		for _, op := range r.Applied.Ops {
			log.WithField("op", op.String()).Debug("applied")
		}
	}
	if len(r.Applied.Ops) > 0 {
		level := logrus.InfoLevel
		if fought {
			level = logrus.DebugLevel
		}
		log.WithFields(logrus.Fields{
			"ops": len(r.Applied.Ops), "repaired": r.Repaired, "left": len(r.Left.Ops),
			"took": r.Took.Round(time.Microsecond).String(),
		}).Log(level, "kernel programmed")
	}
}

// logComplaints says what can't be written, and stays so until somebody acts.
func (n *Node) logComplaints(refused []*dataplane.OpError, conflicts []dataplane.Op) {
	log := n.opts.Log
	for i, f := range refused {
		if i == maxLogged {
			log.WithField("more", len(refused)-i).Warn("further entries were refused; see weftctl plan")
			break
		}
		log.WithError(f.Err).WithField("op", f.Op.String()).Warn("the kernel refused an entry")
	}
	for i, op := range conflicts {
		if i == maxLogged {
			log.WithField("more", len(conflicts)-i).Error("further entries are taken; see weftctl plan")
			break
		}
		log.WithFields(logrus.Fields{"entry": op.Entry(), "next": conflictText(op)}).
			Error("an entry that weft needs is taken; it is left alone")
	}
}

const maxLogged = 5 // complaints of one round that are logged one by one

// baseKind tells whether an entry belongs to what serving pods needs, whoever
// the peers are.
func baseKind(k dataplane.Kind) bool {
	switch k {
	case dataplane.KindLink, dataplane.KindAddr, dataplane.KindChain, dataplane.KindSysctl:
		return true
	default:
		return false
	}
}
