package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/pkg/cnifiles"
	"github.com/weftnet/weft/pkg/health"
)

func (s *settings) cniFlags(fs *flag.FlagSet) {
	fs.StringVar(&s.cni.Source, "cni-conf", "",
		"`file` with the CNI configuration list to install, from a ConfigMap; its changes are followed")
	fs.StringVar(&s.cni.Target, "cni-conf-file", "", "`file` as which it is installed: /etc/cni/net.d/10-weft.conflist")
	fs.StringVar(&s.cni.BinDir, "cni-bin-dir", "",
		"`directory` where the plugin is installed, under the type that the list names: /opt/cni/bin")
	fs.StringVar(&s.cni.Plugin, "cni-plugin", "", "`file` with the plugin (default: weft, beside weftd)")
}

const conditionCNI = "CNI files" // plugin and configuration are in place

// eventer is a store in which something can be said about this node to who
// looks there.
type eventer interface {
	Warn(ctx context.Context, reason, message string) error
}

// cniKeeper keeps the CNI files in place, and says what comes of it.
type cniKeeper struct {
	state  *health.State
	log    logrus.FieldLogger
	ready  func()  // is called when the condition may have changed
	events eventer // or nil

	said map[string]bool
}

// newCNIKeeper makes the files a condition of readiness, from now on.
func newCNIKeeper(state *health.State, store any, ready func(), log logrus.FieldLogger) *cniKeeper {
	c := &cniKeeper{state: state, log: log, ready: ready, said: map[string]bool{}}
	c.events, _ = store.(eventer)
	state.Set(conditionCNI, errors.New("installed when all else is ready"))
	return c
}

// run waits until pods can be served but for the files, which are what makes
// the container runtime start them.
func (c *cniKeeper) run(ctx context.Context, o cnifiles.Options) error {
	if o.Plugin == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find the CNI plugin beside weftd: %w; name it with --cni-plugin", err)
		}
		o.Plugin = filepath.Join(filepath.Dir(self), "weft")
	}
	if err := c.state.Await(ctx, conditionCNI); err != nil {
		return err
	}
	return cnifiles.New(o).Run(ctx, func(r cnifiles.Report) { c.report(ctx, r) })
}

func (c *cniKeeper) report(ctx context.Context, r cnifiles.Report) {
	c.state.Set(conditionCNI, r.Err)
	c.ready()
	if len(r.Wrote) > 0 {
		c.log.WithField("files", r.Wrote).Info("CNI files installed")
	}
	now := map[string]bool{}
	if r.Err != nil {
		c.warn(ctx, now, "WeftCannotInstallCNI", r.Err.Error())
	}
	for _, note := range r.Notes {
		c.warn(ctx, now, "WeftCNINotice", note)
	}
	c.said = now // what has passed and comes again is news
}

// warn says something once, in the log and by an Event.
func (c *cniKeeper) warn(ctx context.Context, now map[string]bool, reason, message string) {
	now[message] = true
	if c.said[message] {
		return
	}
	c.log.Warn(message)
	if c.events == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, eventPatience)
	defer cancel()
	if err := c.events.Warn(ctx, reason, message); err != nil {
		c.log.WithError(err).Warn("no Event says so")
	}
}

const eventPatience = 5 * time.Second // the files don't wait for an API server that is away
