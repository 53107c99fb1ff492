package embedded

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/weftnet/weft/pkg/tlsfile"
)

// member is what the options come to.
type member struct {
	name    string
	clients []netip.AddrPort
	peers   []peer // all members; none: this one is alone
	own     url.URL
}

// peer is a member as the others see it.
type peer struct {
	name string
	url  url.URL
}

// plan checks the options, and reads the certificates to see that they can be
// used.
func plan(o Options) (member, error) {
	m := member{name: o.Name}
	if m.name == "" {
		m.name = defaultName
	}
	if o.CAFile != "" && !o.secure() {
		return member{}, errors.New("embedded etcd: a CA file alone makes no TLS; " +
			"give --embedded-etcd-certfile and --embedded-etcd-keyfile, too")
	}
	if o.files().Given() {
		_, err := tlsfile.Open(o.files(), "the embedded etcd", func(err error) { o.Log.WithError(err).Warn("embedded etcd") })
		if err != nil {
			return member{}, err
		}
	}
	var err error
	if m.clients, err = listenAddrs(o.Listen, o.secure(), o.AllowPlaintext); err != nil {
		return member{}, err
	}
	if m.peers, err = parsePeers(o.Peers); err != nil {
		return member{}, err
	}
	if o.secure() && o.CAFile == "" && slices.ContainsFunc(m.clients, elsewhere) {
		o.Log.Warn("the embedded etcd asks clients for no certificate: who reaches it rules the network, " +
			"unless it has users with passwords; give --embedded-etcd-cafile")
	}
	if len(m.peers) == 0 {
		return m, nil
	}
	return m, m.findOwn(o)
}

const wantPeers = "want NAME=http://ADDRESS:PORT,… or https, each name and each URL once"

// parsePeers reads NAME=URL,….
func parsePeers(list string) ([]peer, error) {
	if list == "" {
		return nil, nil
	}
	var out []peer
	for _, text := range strings.Split(list, ",") {
		p, err := parsePeer(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(q peer) bool { return q.name == p.name || q.url.Host == p.url.Host }) {
			return nil, fmt.Errorf("embedded etcd: %q is there twice: %s", text, wantPeers)
		}
		if len(out) > 0 && out[0].url.Scheme != p.url.Scheme {
			return nil, fmt.Errorf("embedded etcd: the members %q and %q: all must be http or all https",
				out[0].name, p.name)
		}
		out = append(out, p)
	}
	return out, nil
}

func parsePeer(text string) (peer, error) {
	name, at, _ := strings.Cut(text, "=")
	u, err := url.Parse(at)
	if err != nil || name == "" || u.Scheme != "http" && u.Scheme != "https" ||
		u.Hostname() == "" || u.Port() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return peer{}, fmt.Errorf("embedded etcd: %q is no member: %s", text, wantPeers)
	}
	return peer{name, url.URL{Scheme: u.Scheme, Host: u.Host}}, nil
}

// findOwn finds this member among the peers, and checks how the others reach it.
func (m *member) findOwn(o Options) error {
	i := slices.IndexFunc(m.peers, func(p peer) bool { return p.name == m.name })
	if i < 0 {
		return fmt.Errorf("embedded etcd: this member %q is not in --embedded-etcd-peers %s; "+
			"name it with --embedded-etcd-name", m.name, o.Peers)
	}
	m.own = m.peers[i].url
	a, err := netip.ParseAddrPort(m.own.Host)
	switch {
	case err != nil || a.Addr().IsUnspecified() || a.Port() == 0:
		return fmt.Errorf("embedded etcd: %s is where this member listens for the others: "+
			"want an address of this host and a port", m.own.String())
	case m.own.Scheme == "https" && o.CAFile == "":
		return fmt.Errorf("embedded etcd: members at https URLs show each other certificates: "+
			"give --embedded-etcd-certfile, --embedded-etcd-keyfile and --embedded-etcd-cafile (%s)", m.own.String())
	case m.own.Scheme == "http" && elsewhere(a) && !o.AllowPlaintext:
		return fmt.Errorf("embedded etcd would talk to other members at %s without encryption and without a password; "+
			"use https URLs, or, if only the members can reach that address, allow it by --embedded-etcd-insecure",
			m.own.String())
	}
	return nil
}

// config is what etcd gets to see.
func (m member) config(o Options, lg *zap.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Dir, c.Name = o.Dir, m.name
	scheme := "http"
	if o.secure() {
		scheme = "https"
		c.ClientTLSInfo = transport.TLSInfo{
			CertFile: o.CertFile, KeyFile: o.KeyFile, TrustedCAFile: o.CAFile, ClientCertAuth: o.CAFile != "", Logger: lg,
		}
	}
	c.ListenClientUrls, c.AdvertiseClientUrls = nil, nil
	for _, a := range m.clients {
		c.ListenClientUrls = append(c.ListenClientUrls, url.URL{Scheme: scheme, Host: a.String()})
		c.AdvertiseClientUrls = append(c.AdvertiseClientUrls, url.URL{Scheme: scheme, Host: reachable(a).String()})
	}
	if len(m.peers) == 0 {
		m.alone(c)
	} else {
		m.among(c, o, lg)
	}
	c.QuotaBackendBytes = quota
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(lg)
	return c
}

func (m member) alone(c *embed.Config) {
	// There are no peers, so nothing listens for them. The URL only goes into
	// the member's identity.
	c.ListenPeerUrls = nil
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	// The cluster's id is made of the member's URL and this token, of which
	// only a first start takes notice: a new one each time, so that clients
	// see a data directory that was begun anew for what it is.
	c.InitialClusterToken = rand.Text()
	c.ElectionMs = electionAlone
}

func (m member) among(c *embed.Config, o Options, lg *zap.Logger) {
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{m.own}, []url.URL{m.own}
	var all []string
	for _, p := range m.peers {
		all = append(all, p.name+"="+p.url.String())
	}
	c.InitialCluster = strings.Join(all, ",")
	c.InitialClusterToken = defaultName // the same for all members
	if m.own.Scheme == "https" {
		c.PeerTLSInfo = transport.TLSInfo{
			CertFile: o.CertFile, KeyFile: o.KeyFile, TrustedCAFile: o.CAFile, ClientCertAuth: true, Logger: lg,
		}
	}
}
