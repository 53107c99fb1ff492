package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/pkg/dataplane/linux/probe"
	"github.com/weftnet/weft/pkg/subnetenv"
	"github.com/weftnet/weft/pkg/tables"
	"github.com/weftnet/weft/pkg/trace"
)

const traceHelp = `trace follows a packet through the kernel's own tables: routes with their policies and
nexthop objects, neighbours, forwarding entries, and the rules of nf_tables (those of
iptables-nft and kube-proxy too). It names the entry that decides at each hop, stops where
one is missing, and says what mends it. It writes nothing, and needs no weftd.

SRC is "node", the address of a pod on this node, or the name of its attachment (the
container's id, or a part of its beginning). DST is an address.

With --live it sends one such packet besides, and tells where it was last seen.`

// traceFlags are those of trace as they are typed.
type traceFlags struct {
	port        uint16
	proto       string
	attachments string
	subnetFile  string
	live        bool
}

// traced is the answer of `weftctl trace`.
type traced struct {
	trace.Path
	Live *probe.Report `json:"live,omitempty"`
}

func newTraceCommand(g *globals) *cobra.Command {
	var f traceFlags
	cmd := &cobra.Command{
		Use:   "trace SRC DST",
		Short: "Follow a packet through this node's tables; exit status 1 if it stops",
		Long:  traceHelp,
		Example: "  weftctl trace 10.42.1.2 10.42.2.3\n  weftctl trace 10.42.1.2 10.96.0.10 --proto udp --port 53\n" +
			"  weftctl trace node 10.42.2.3",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, g, args[0], args[1])
		},
	}
	flags := cmd.Flags()
	flags.Uint16Var(&f.port, "port", 0, "destination `number`; 80 for tcp and udp where none is given")
	flags.StringVar(&f.proto, "proto", "", "`protocol`: tcp, udp or icmp (default icmp, or tcp with --port)")
	flags.StringVar(&f.attachments, "attachments-dir", setting("ATTACHMENTS_DIR", attachment.DefaultDir),
		"`directory` of the CNI plugin's records")
	flags.StringVar(&f.subnetFile, "subnet-file", setting("SUBNET_FILE", "/run/flannel/subnet.env"),
		"`file` that tells the cluster's network")
	flags.BoolVar(&f.live, "live", false, "send one packet too, and tell where it was last seen")
	return cmd
}

// packet reads what is to be followed; Src stays open.
func (f *traceFlags) packet(dst string) (trace.Packet, error) {
	p := trace.Packet{Proto: f.proto, Port: f.port}
	var err error
	if p.Dst, err = netip.ParseAddr(dst); err != nil {
		return p, fmt.Errorf("destination %q: want an address", dst)
	}
	p.Dst = p.Dst.Unmap()
	switch {
	case p.Proto == "" && p.Port != 0:
		p.Proto = "tcp"
	case p.Proto == "":
		p.Proto = "icmp"
	case p.Proto == "icmp" && p.Port != 0:
		return p, errors.New("--port: icmp has none; use --proto tcp or udp")
	case p.Proto != "icmp" && p.Proto != "tcp" && p.Proto != "udp":
		return p, fmt.Errorf("--proto %q: use tcp, udp or icmp", p.Proto)
	}
	if p.Proto != "icmp" && p.Port == 0 {
		p.Port = 80
	}
	return p, nil
}

func (f *traceFlags) run(cmd *cobra.Command, g *globals, src, dst string) error {
	p, err := f.packet(dst)
	if err != nil {
		return err
	}
	node, err := linux.New(linux.Options{})
	if err != nil {
		return fmt.Errorf("%w; run it as root", err)
	}
	defer node.Close()
	w, pod, err := f.world(cmd.Context(), node, src, &p)
	if err != nil {
		return err
	}
	answer := traced{Path: trace.Walk(w, p)}
	if f.live {
		flow := probe.Flow{Path: pod, Src: answer.Src, Dst: p.Dst, Proto: p.Proto, Port: p.Port}
		live, err := probe.Live(cmd.Context(), flow, tunnelPorts(w.Node)...)
		if err != nil {
			return err
		}
		answer.Live = &live
	}
	err = g.print(cmd.OutOrStdout(), answer, func(out io.Writer) error {
		printTrace(out, answer, w.PodName)
		return nil
	})
	if err == nil && answer.Stops() {
		return errStops
	}
	return err
}

func tunnelPorts(s tables.Space) (ports []int) {
	for _, l := range s.Links {
		if l.VXLAN != nil && !slices.Contains(ports, l.VXLAN.Port) {
			ports = append(ports, l.VXLAN.Port)
		}
	}
	return ports
}

// errStops ends `weftctl trace` with status 1, without a further word.
var errStops = errors.New("the packet stops")

// world reads the tables, and finds where the packet begins.
func (f *traceFlags) world(
	ctx context.Context, node *linux.Kernel, src string, p *trace.Packet,
) (w trace.World, pod string, err error) {
	if env, err := subnetenv.Read(f.subnetFile); err == nil {
		w.Networks = env.Networks // without the file only that check is left out
	}
	if w.Node, err = node.Tables(ctx); err != nil {
		return w, "", fmt.Errorf("read the node's tables: %w; run it as root", err)
	}
	if src == "node" {
		return w, "", nil
	}
	if ip, err := netip.ParseAddr(src); err == nil {
		if _, ours := w.Node.Owner(ip.Unmap()); ours && ip.Unmap().Is4() == p.Dst.Is4() {
			p.Src = ip.Unmap()
			return w, "", nil
		}
	}
	if pod, err = f.pod(node, src, p); err != nil {
		return w, "", err
	}
	inside, err := linux.New(linux.Options{Path: pod})
	if err != nil {
		return w, "", err
	}
	defer inside.Close()
	space, err := inside.Tables(ctx)
	if err != nil {
		return w, "", fmt.Errorf("read the pod's tables: %w", err)
	}
	w.Pod, w.PodName = &space, pod
	return w, pod, nil
}

// pod gives the path of the namespace of SRC, and sets the source address.
func (f *traceFlags) pod(node *linux.Kernel, src string, p *trace.Packet) (string, error) {
	records, err := attachment.Dir(f.attachments).Load()
	ip, notAddr := netip.ParseAddr(src)
	if notAddr != nil {
		return recordOf(records, src, p)
	}
	p.Src = ip.Unmap()
	if p.Src.Is4() != p.Dst.Is4() {
		return "", fmt.Errorf("%s and %s are of two address families", p.Src, p.Dst)
	}
	var hints []string
	for _, r := range records {
		for _, a := range r.Addrs {
			if a.Addr() == p.Src {
				hints = append(hints, r.NetNS)
			}
		}
	}
	path, findErr := node.Neighbour(p.Src, hints...)
	if findErr != nil {
		return "", errors.Join(findErr, err)
	}
	if path == "" {
		return "", fmt.Errorf("no pod on this node has the address %s; "+
			"run it on the node of that pod, or use \"node\"", p.Src)
	}
	return path, nil
}

func recordOf(records []attachment.Attachment, name string, p *trace.Packet) (string, error) {
	var found []attachment.Attachment
	for _, r := range records {
		if r.Container == name || r.Key.String() == name {
			found = []attachment.Attachment{r}
			break
		}
		if strings.HasPrefix(r.Container, name) {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("source %q: %d attachments of this node begin so; "+
			"want \"node\", a pod's address or one attachment's name", name, len(found))
	}
	for _, a := range found[0].Addrs {
		if a.Addr().Is4() == p.Dst.Is4() {
			p.Src = a.Addr()
			return found[0].NetNS, nil
		}
	}
	return "", fmt.Errorf("source %q has no address of the family of %s", name, p.Dst)
}

func printTrace(out io.Writer, p traced, pod string) {
	if pod != "" {
		_, _ = fmt.Fprintf(out, "in %s:\n", pod)
	}
	_, _ = fmt.Fprint(out, p.Path)
	if p.Live != nil {
		printLive(out, *p.Live)
	}
}

func printLive(out io.Writer, r probe.Report) {
	_, _ = fmt.Fprintln(out, "sent one:")
	for _, s := range r.Seen {
		if s.Packets > 0 {
			_, _ = fmt.Fprintf(out, "  seen: %s (%d)\n", s.Place, s.Packets)
		}
	}
	switch {
	case r.Answer != "":
		_, _ = fmt.Fprintf(out, "answered after %s: %s\n", r.RTT.Round(10*time.Microsecond), r.Answer)
	case r.Dropped != "":
		_, _ = fmt.Fprintf(out, "no answer: dropped by %s\n", r.Dropped)
	case r.Last == "":
		_, _ = fmt.Fprintln(out, "no answer, and no rule of this node saw it")
	default:
		_, _ = fmt.Fprintf(out, "no answer; it was last seen here: %s\n", r.Last)
	}
}
