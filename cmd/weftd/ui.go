package main

import (
	"context"
	"errors"
	"io"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/ui"
)

// localPort is where to listen for this machine only, or nowhere.
type localPort struct{ hostPort }

func (p *localPort) Set(s string) error {
	var at hostPort
	if err := at.Set(s); err != nil {
		return err
	}
	if at != "" && at.open() {
		return errors.New("only for this machine, as 127.0.0.1:9102")
	}
	p.hostPort = at
	return nil
}

// serveUI serves the status page. That it can't is no reason for the node not to
// run.
func serveUI(ctx context.Context, addr string, node *network.Node, log logrus.FieldLogger) error {
	listener, err := ui.Listen(ctx, addr)
	if err == nil {
		err = ui.Serve(ctx, listener, few(node.Answer))
	}
	if ctx.Err() == nil {
		log.WithError(err).Warn("no status page")
		<-ctx.Done()
	}
	return ctx.Err()
}

// maxAsks is how many questions of pages are answered at once: whoever is on
// this machine may ask.
const maxAsks = 2

// few has the others wait.
func few(ask ui.Ask) ui.Ask {
	slots := make(chan struct{}, maxAsks)
	return func(ctx context.Context, path string) (io.ReadCloser, error) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			return ask(ctx, path)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
