package trace

import (
	"fmt"
	"strings"
)

// String is the way as `weftctl trace` prints it, one hop a line.
func (p Path) String() string {
	var b strings.Builder
	what := p.Proto
	if p.Port != 0 {
		what = fmt.Sprintf("%s port %d", p.Proto, p.Port)
	}
	src := "somewhere"
	if p.Src.IsValid() {
		src = p.Src.String()
	}
	fmt.Fprintf(&b, "%s to %s, %s\n", src, p.Dst, what)
	for _, h := range p.Hops {
		fmt.Fprintf(&b, "  %-4s  %-11s  %s\n", h.Where, h.What, h.Entry)
		for _, n := range h.Notes {
			fmt.Fprintf(&b, "                     (%s)\n", n)
		}
	}
	if p.Stops() {
		fmt.Fprintf(&b, "STOPS: %s\n", p.Missing)
		if p.Mend != "" {
			fmt.Fprintf(&b, "  what mends it: %s\n", p.Mend)
		}
	} else {
		fmt.Fprintf(&b, "goes to %s\n", p.End)
	}
	if p.MTU != 0 {
		fmt.Fprintf(&b, "largest packet: %d bytes\n", p.MTU)
	}
	for _, u := range p.Unread {
		fmt.Fprintf(&b, "not read: %s\n", u)
	}
	return b.String()
}
