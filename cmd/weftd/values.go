package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/weftnet/weft/pkg/logging"
)

// list is a flag that may be repeated. An empty element is none: a template
// whose variable is empty asks for nothing.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	if s != "" {
		*l = append(*l, s)
	}
	return nil
}

// patterns is a flag of regular expressions that may be repeated.
type patterns []*regexp.Regexp

func (p *patterns) String() string {
	text := make([]string, len(*p))
	for i, r := range *p {
		text[i] = r.String()
	}
	return strings.Join(text, ",")
}

func (p *patterns) Set(s string) error {
	if s == "" {
		return nil
	}
	r, err := regexp.Compile(s)
	if err == nil {
		*p = append(*p, r)
	}
	return err
}

// urls is a comma list.
type urls []string

func (u *urls) String() string     { return strings.Join(*u, ",") }
func (u *urls) Set(s string) error { *u = strings.Split(s, ","); return nil }

// address is an IP address, or none.
type address struct{ netip.Addr }

func (a *address) String() string {
	if !a.IsValid() {
		return ""
	}
	return a.Addr.String()
}

func (a *address) Set(s string) error {
	if s == "" {
		a.Addr = netip.Addr{}
		return nil
	}
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Zone() != "" {
		return errors.New("not an IP address")
	}
	a.Addr = addr
	return nil
}

// prefix is a network in CIDR form, or none.
type prefix struct{ netip.Prefix }

func (p *prefix) String() string {
	if !p.IsValid() {
		return ""
	}
	return p.Prefix.String()
}

func (p *prefix) Set(s string) error {
	if s == "" {
		p.Prefix = netip.Prefix{}
		return nil
	}
	network, err := netip.ParsePrefix(s)
	if err != nil {
		return errors.New("not a network of the form ADDRESS/LENGTH")
	}
	p.Prefix = network
	return nil
}

// modules is klog's -vmodule.
type modules struct {
	text string
	logging.Modules
}

func (m *modules) String() string { return m.text }

func (m *modules) Set(s string) (err error) {
	m.text = s
	m.Modules, err = logging.ParseModules(s)
	return err
}

// place is klog's -log_backtrace_at.
type place struct {
	text string
	logging.Place
}

func (p *place) String() string { return p.text }

func (p *place) Set(s string) (err error) {
	p.text = s
	p.Place, err = logging.ParsePlace(s)
	return err
}

// usageError is a command line that can't be understood: exit status 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// minutes checks what flannel checks after all else.
func (s *settings) minutes() error {
	if s.renewMargin < 1 || s.renewMargin > 24*60-1 {
		return fmt.Errorf("--subnet-lease-renew-margin %d: must be 1 to 1439 minutes, as a lease lives for 24 hours",
			s.renewMargin)
	}
	return nil
}

// hostPort is where to listen, or nowhere.
type hostPort string

func (h *hostPort) String() string { return string(*h) }

func (h *hostPort) Set(s string) error {
	if s == "" {
		*h = ""
		return nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("want HOST:PORT, as 127.0.0.1:9101")
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && host != "localhost" {
		return fmt.Errorf("%q is not an IP address", host)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is not a port: want 1 to 65535", port)
	}
	*h = hostPort(s)
	return nil
}

// open tells whether others than this host can get there.
func (h hostPort) open() bool {
	host, _, _ := net.SplitHostPort(string(h))
	a, err := netip.ParseAddr(host)
	return host != "localhost" && (err != nil || !a.IsLoopback())
}
