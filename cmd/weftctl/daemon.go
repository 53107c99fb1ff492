package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/pkg/version"
)

// errDrift ends `weftctl plan` with status 1: the kernel is not as wanted.
var errDrift = errors.New("the kernel is not as wanted")

func newStatusCommand(g *globals) *cobra.Command {
	var where network.Offline
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show this node: its lease, uplink, peers and store",
		Long: "Shows this node as weftd knows it. Where no weftd runs, or it hangs, it shows what the state directory\n" +
			"and the subnet file remember and what stands in the kernel, says so, and ends with status 1.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s network.Status
			err := askDaemon(cmd.Context(), g.socket, "/v1/status", &s)
			if away(err) {
				var why error
				if s, why = offline(cmd.Context(), where); why != nil {
					return fmt.Errorf("%w\nwithout it nothing can be told: %w", err, why)
				}
			} else if err != nil {
				return err
			}
			return errors.Join(err, g.print(cmd.OutOrStdout(), s, coloured(func(out io.Writer) error {
				return printStatus(out, s, time.Now())
			}, statusColours())))
		},
	}
	stateFlags(cmd.Flags(), &where.StateDir, &where.SubnetFile)
	return cmd
}

// offline asks the kernel and the disk.
func offline(ctx context.Context, where network.Offline) (network.Status, error) {
	kernel, err := linux.New(linux.Options{})
	if err != nil {
		return network.Status{}, fmt.Errorf("%w; run it as root", err)
	}
	defer kernel.Close()
	where.Kernel, where.Backends = kernel, backends()
	return where.Status(ctx)
}

func newPlanCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "plan",
		Aliases: []string{"diff"},
		Short:   "Show what weftd would write to the kernel now; exit status 1 if anything",
		Long: "Shows the difference between what is wanted and what the kernel has, without writing:\n" +
			"  +  would be created    ~  would be changed    -  would be deleted\n" +
			"  !  is needed, but something foreign stands there; weftd leaves it alone",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var p network.PlanReply
			if err := askDaemon(cmd.Context(), g.socket, "/v1/plan", &p); err != nil {
				return err
			}
			if err := g.print(cmd.OutOrStdout(), p, func(out io.Writer) error {
				printPlan(out, p)
				return nil
			}); err != nil {
				return err
			}
			if len(p.Ops)+len(p.Conflicts) > 0 {
				return errDrift
			}
			return nil
		},
	}
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version.String())
			return err
		},
	}
}

var (
	// errNoDaemon is a socket that nobody answers at.
	errNoDaemon = errors.New("is it running? systemctl status weftd")
	// errHangs is a weftd that is there and does not answer.
	errHangs = errors.New("it runs and hangs: journalctl -u weftd; systemctl restart weftd (packets keep flowing)")
)

// away tells of an error that nothing is to be heard from weftd.
func away(err error) bool { return errors.Is(err, errNoDaemon) || errors.Is(err, errHangs) }

// answerTime is how long an answer may take to begin: on a busy node with 10,000 peers
// it is a fraction of a second, and weftd itself tells after 10 s that it is too busy.
const answerTime = 12 * time.Second

// clientOf speaks HTTP over the control socket; a patience of 0 has no end, once an
// answer has begun.
func clientOf(socket string, patience time.Duration) *http.Client {
	return &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			ResponseHeaderTimeout: answerTime,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
		},
	}
}

// get gives the body of an answer, to be closed.
func get(ctx context.Context, client *http.Client, socket, path string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://weftd"+path, nil)
	if err != nil {
		return nil, err
	}
	reply, err := client.Do(request)
	if err != nil {
		err = errors.Unwrap(err)
		if slow, ok := errors.AsType[net.Error](err); ok && slow.Timeout() {
			return nil, fmt.Errorf("ask weftd at %s: %w; %w", socket, err, errHangs)
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("ask weftd at %s: %w; %w", socket, err, errNoDaemon)
		}
		return nil, fmt.Errorf("ask weftd at %s: %w", socket, err)
	}
	if reply.StatusCode == http.StatusOK {
		return reply.Body, nil
	}
	defer func() { _ = reply.Body.Close() }()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		return nil, fmt.Errorf("ask weftd at %s: %w", socket, err)
	}
	return nil, fmt.Errorf("ask weftd at %s: %s", socket, strings.TrimSpace(string(body)))
}

// askDaemon gets one JSON document from the local weftd.
func askDaemon(ctx context.Context, socket, path string, into any) error {
	body, err := get(ctx, clientOf(socket, 30*time.Second), socket, path)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("ask weftd at %s: its answer can't be read: %w", socket, err)
	}
	return nil
}

func printPlan(out io.Writer, p network.PlanReply) {
	for _, op := range p.Ops {
		_, _ = fmt.Fprintln(out, op)
	}
	for _, c := range p.Conflicts {
		_, _ = fmt.Fprintln(out, "!", c)
	}
	if len(p.Ops)+len(p.Conflicts) == 0 {
		_, _ = fmt.Fprintln(out, "nothing to do: the kernel is as wanted")
	}
}
