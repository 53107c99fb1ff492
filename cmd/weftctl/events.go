package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/network/events"
)

func newEventsCommand(g *globals) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened on this node lately, and with -f what happens",
		Long: "Shows what weftd remembers of what happened: peers that came, left or are left out, entries\n" +
			"that were repaired, conflicts, readiness, the lease, the uplink, the store. The newest 512 are\n" +
			"kept, in memory. With -o json each is a line of its own.",
		Example: "  weftctl events\n  weftctl events -f",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := stream{g: g, out: cmd.OutOrStdout(), follow: follow}
			if !follow {
				return s.read(cmd.Context())
			}
			return s.keepReading(cmd.Context(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on, also over a restart of weftd, until interrupted")
	return cmd
}

// stream prints events as they come.
type stream struct {
	g      *globals
	out    io.Writer
	follow bool
	last   uint64 // the number of the newest that was printed
}

// keepReading goes on when weftd does.
func (s *stream) keepReading(ctx context.Context, complaints io.Writer) error {
	if err := s.read(ctx); ctx.Err() == nil && away(err) {
		return err // there never was one that answers
	}
	said := false
	for ctx.Err() == nil {
		if !said {
			said = true
			_, _ = fmt.Fprintln(complaints, "weftd has stopped; waiting for it")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
		s.last = 0 // another run counts anew
		_ = s.read(ctx)
		said = said && s.last == 0
	}
	return nil
}

func (s *stream) read(ctx context.Context) error {
	client := clientOf(s.g.socket, 0)
	body, err := get(ctx, client, s.g.socket, fmt.Sprintf("/v1/events?after=%d&follow=%t", s.last, s.follow))
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		var e events.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("ask weftd at %s: its answer can't be read: %w", s.g.socket, err)
		}
		s.last = e.Seq
		if err := s.print(lines.Bytes(), e); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (s *stream) print(line []byte, e events.Event) error {
	switch s.g.output {
	case "json":
		_, err := fmt.Fprintf(s.out, "%s\n", line)
		return err
	case "yaml":
		return printYAML(s.out, []events.Event{e}) // one list, however long it gets
	}
	_, err := fmt.Fprintf(s.out, "%s  %s\n", e.Time.Local().Format("2006-01-02 15:04:05.000"), e)
	return err
}
