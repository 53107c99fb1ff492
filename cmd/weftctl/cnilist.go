package main

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/weftnet/weft/pkg/attachment"
)

// attached is a record and what has become of it.
type attached struct {
	attachment.Attachment
	State string `json:"state"`
}

// host is what tells whether an attachment stands.
type host struct {
	boot  string
	links map[string]bool // nil: not known
}

// thisHost looks at the network namespace that weftctl runs in.
func thisHost() host {
	h := host{}
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		h.boot = strings.TrimSpace(string(b))
	}
	if links, err := net.Interfaces(); err == nil {
		h.links = map[string]bool{}
		for _, l := range links {
			h.links[l.Name] = true
		}
	}
	return h
}

// attachedOf judges records. Pure.
func attachedOf(records []attachment.Attachment, h host) []attached {
	out := []attached{} // JSON: a list, not null
	for _, r := range records {
		state := "attached"
		switch {
		case h.boot != "" && r.Boot != h.boot:
			state = "another boot"
		case h.links != nil && !h.links[r.HostLink]:
			state = "link gone"
		}
		out = append(out, attached{r, state})
	}
	return out
}

func printAttachments(out io.Writer, all []attached) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "the CNI plugin has attached no pod")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NETWORK\tCONTAINER\tINTERFACE\tADDRESSES\tLINK\tBRIDGE\tPORTS\tSTATE")
	for _, a := range all {
		bridge := "-"
		if a.Bridge != nil {
			bridge = a.Bridge.Name
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.Network, shortID(a.Container), a.Interface,
			addressesOf(a), a.HostLink, bridge, portsOf(a), a.State)
	}
	return w.Flush()
}

// shortID is what crictl shows of a container's id; JSON has it whole.
func shortID(id string) string {
	const enough = 13
	return id[:min(len(id), enough)]
}

func addressesOf(a attached) string {
	var texts []string
	for _, p := range a.Addrs {
		texts = append(texts, p.Addr().String())
	}
	return strings.Join(texts, ",")
}

func portsOf(a attached) string {
	var texts []string
	for _, p := range a.Ports {
		at := fmt.Sprint(p.Host)
		if p.HostIP.IsValid() {
			at = net.JoinHostPort(p.HostIP.String(), at)
		}
		texts = append(texts, fmt.Sprintf("%s/%s→%d", at, p.Protocol, p.Container))
	}
	return cmp.Or(strings.Join(texts, ","), "-")
}
