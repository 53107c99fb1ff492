package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/bench"
	"github.com/weftnet/weft/pkg/ping"
)

const benchHelp = `bench measures the way to one peer, through the overlay and beside it, for each address
family: round trips, the largest packet that is answered, and how much one TCP connection
carries from here to there. PEER is a name, an address or a subnet of it, as weftctl peers has them.

Round trips and packets need nothing on the peer but its kernel. For the throughput somebody
has to take in what is sent: run weftctl bench --serve there. It listens at that node's own
address and at its overlay address, takes one peer of the cluster at a time and nobody else, and
ends by itself after --for.`

// benchFlags are those of bench as they are typed.
type benchFlags struct {
	serve        bool
	length, stay time.Duration
	port         uint16
	pings        int
	sysctls      string
}

func newBenchCommand(g *globals) *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:     "bench PEER | --serve",
		Short:   "Measure the way to a peer: round trips, largest packet, throughput",
		Long:    benchHelp,
		Example: "  weftctl bench 192.168.77.2\n  weftctl bench --serve",
		Args: func(cmd *cobra.Command, args []string) error {
			if f.serve {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.length <= 0 || f.length > time.Minute/2 || f.pings < 1 {
				return errors.New("--time is from 1ms to 30s, --pings 1 or more")
			}
			if f.serve {
				return f.server(cmd, g)
			}
			return f.run(cmd, g, args[0])
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.serve, "serve", false, "take in what a peer sends, and tell it how much arrived")
	flags.DurationVar(&f.stay, "for", 10*time.Minute, "how long to serve")
	flags.DurationVar(&f.length, "time", 3*time.Second, "how long to send on each way, 30s at the most")
	flags.Uint16Var(&f.port, "port", 8473, "TCP `port`, the same on both sides")
	flags.IntVar(&f.pings, "pings", 20, "`number` of round trips on each way")
	flags.StringVar(&f.sysctls, "sysctl-dir", setting("SYSCTL_DIR", "/proc/sys"), "`directory` of sysctls")
	return cmd
}

// way is what was measured on one way to a peer.
type way struct {
	Family  string  `json:"family"`  // IPv4, IPv6
	Through string  `json:"through"` // overlay, underlay
	Address string  `json:"address"`
	RTT     float64 `json:"rttMs,omitempty"` // the median; absent without an answer
	RTTMin  float64 `json:"rttMinMs,omitempty"`
	RTTMax  float64 `json:"rttMaxMs,omitempty"`
	Sent    int     `json:"sent"`
	Lost    int     `json:"lost"`
	MTU     int     `json:"mtu,omitempty"`           // bytes of the largest packet that is answered, IP header and all
	Bits    float64 `json:"bitsPerSecond,omitempty"` // absent where nobody takes it in
	Reason  string  `json:"reason,omitempty"`        // why something is absent
}

// ratio is the overlay beside the underlay.
type ratio struct {
	Family string  `json:"family"`
	RTT    float64 `json:"rtt,omitempty"`
	MTU    int     `json:"mtuDifference,omitempty"` // bytes that the overlay costs
	Bits   float64 `json:"throughput,omitempty"`
}

// measured is the answer of bench.
type measured struct {
	Peer   string  `json:"peer"`
	Ways   []way   `json:"ways"`
	Ratios []ratio `json:"ratios,omitempty"`
}

func (f *benchFlags) run(cmd *cobra.Command, g *globals, name string) error {
	var peers []network.Peer
	if err := askDaemon(cmd.Context(), g.socket, "/v1/peers", &peers); err != nil {
		return err
	}
	peer, err := findPeer(peers, name)
	if err != nil {
		return err
	}
	var cookie [8]byte
	_, _ = rand.Read(cookie[:]) // never fails (crypto/rand, Go 1.24)
	pinger, err := ping.Open(f.sysctls, cookie)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(cmd.Context())
	prober, heard := bench.NewProber(pinger), make(chan error, 1)
	go func() { heard <- prober.Listen(ctx) }()
	m, err := f.measure(ctx, prober, peer)
	stop()
	if errHeard := <-heard; err == nil && !errors.Is(errHeard, context.Canceled) {
		err = errHeard
	}
	if err != nil {
		return err
	}
	return g.print(cmd.OutOrStdout(), m, func(out io.Writer) error { return printBench(out, m) })
}

// findPeer knows a peer by whatever weftctl peers shows of it.
func findPeer(peers []network.Peer, name string) (network.Peer, error) {
	var known []string
	for _, p := range peers {
		if p.Reason != "" {
			continue
		}
		known = append(known, cmp.Or(p.Node, p.Lease))
		if p.Node == name || p.Lease == name || slices.ContainsFunc(p.Paths, func(path network.PeerPath) bool {
			return slices.Contains([]string{path.Public, path.VTEP, path.Subnet}, name)
		}) {
			return p, nil
		}
	}
	if len(known) == 0 {
		return network.Peer{}, fmt.Errorf("there is no peer %q, and no other one; weftctl status tells why", name)
	}
	return network.Peer{}, fmt.Errorf("there is no peer %q, but %s", name, strings.Join(known, ", "))
}

// measure takes one way after the other, so that none is in another's.
func (f *benchFlags) measure(ctx context.Context, prober *bench.Prober, peer network.Peer) (measured, error) {
	m := measured{Peer: cmp.Or(peer.Node, peer.Lease)}
	for _, path := range peer.Paths {
		var pair []way
		for _, w := range []way{{Through: "overlay", Address: path.VTEP}, {Through: "underlay", Address: path.Public}} {
			to, err := netip.ParseAddr(w.Address)
			if err != nil {
				continue // the backend gives the peer no address in the overlay
			}
			w.Family = "IPv4"
			if to.Is6() {
				w.Family = "IPv6"
			}
			if err := f.one(ctx, prober, to, &w); err != nil {
				return m, err
			}
			pair = append(pair, w)
		}
		m.Ways = append(m.Ways, pair...)
		if len(pair) == 2 {
			m.Ratios = append(m.Ratios, beside(pair[0], pair[1]))
		}
	}
	return m, nil
}

func (f *benchFlags) one(ctx context.Context, prober *bench.Prober, to netip.Addr, w *way) error {
	rtt, err := prober.RTT(ctx, to, f.pings)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		w.Reason = err.Error()
		return nil //nolint:nilerr // it is what there is to tell of this way
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	w.RTT, w.RTTMin, w.RTTMax, w.Sent, w.Lost = ms(rtt.Median), ms(rtt.Min), ms(rtt.Max), rtt.Sent, rtt.Lost
	if rtt.Lost == rtt.Sent {
		w.Reason = "it does not answer"
		return nil
	}
	if w.MTU, err = prober.MTU(ctx, to); err != nil {
		return err
	}
	if w.Bits, err = bench.Throughput(ctx, netip.AddrPortFrom(to, f.port), f.length); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.Reason = fmt.Sprintf("throughput: %v; does weftctl bench --serve run there?", err)
	}
	return nil
}

func beside(overlay, underlay way) ratio {
	r := ratio{Family: overlay.Family}
	if underlay.RTT > 0 {
		r.RTT = overlay.RTT / underlay.RTT
	}
	if overlay.MTU > 0 && underlay.MTU > 0 {
		r.MTU = underlay.MTU - overlay.MTU
	}
	if underlay.Bits > 0 {
		r.Bits = overlay.Bits / underlay.Bits
	}
	return r
}

func printBench(out io.Writer, m measured) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "FAMILY\tTHROUGH\tADDRESS\tRTT\tLOST\tMTU\tTHROUGHPUT")
	orDash := func(there bool, format string, args ...any) string {
		if !there {
			return "-"
		}
		return fmt.Sprintf(format, args...)
	}
	for _, x := range m.Ways {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d/%d\t%s\t%s\n", x.Family, x.Through, x.Address,
			orDash(x.RTT > 0, "%.3fms", x.RTT), x.Lost, x.Sent, orDash(x.MTU > 0, "%d", x.MTU),
			orDash(x.Bits > 0, "%.2f Gbit/s", x.Bits/1e9))
	}
	for _, r := range m.Ratios {
		_, _ = fmt.Fprintf(w, "%s\toverlay beside underlay\t\t%s\t\t%s\t%s\n", r.Family,
			orDash(r.RTT > 0, "%.2f times", r.RTT), orDash(r.MTU != 0, "%+d", -r.MTU), orDash(r.Bits > 0, "%.0f%%", 100*r.Bits))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, x := range m.Ways {
		if x.Reason != "" {
			_, _ = fmt.Fprintf(out, "%s: %s\n", x.Address, x.Reason)
		}
	}
	return nil
}
