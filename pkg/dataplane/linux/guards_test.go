package linux_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// Chains of others that drop what conntrack does not know are found, whoever made
// them, and what can't be such a chain is not.
func TestGuards(t *testing.T) {
	nft := ruleset.Key{Engine: ruleset.IPTablesNFT, Table: "filter"}
	nft6 := ruleset.Key{Engine: ruleset.IPTablesNFT, IPv6: true, Table: "filter"}
	legacy := ruleset.Key{Engine: ruleset.IPTablesLegacy, Table: "filter"}
	mangle := ruleset.Key{Engine: ruleset.IPTablesLegacy, Table: "mangle"}
	run := func(k ruleset.Key, lines ...[]string) func(*firewall) {
		return func(f *firewall) {
			for _, args := range lines {
				f.iptables(k, args...)
			}
		}
	}
	state := []string{"-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"}
	tests := map[string]struct {
		do   func(*firewall)
		want []string
	}{
		"nothing":           {do: func(*firewall) {}},
		"a policy of INPUT": {run(nft, []string{"-P", "INPUT", "DROP"}), []string{"ip filter INPUT drops by its policy"}},
		"a policy of IPv6's OUTPUT": {
			run(nft6, []string{"-P", "OUTPUT", "DROP"}), []string{"ip6 filter OUTPUT drops by its policy"},
		},
		"a policy of legacy INPUT": {
			run(legacy, []string{"-P", "INPUT", "DROP"}), []string{"iptables-legacy filter INPUT drops by its policy"},
		},
		"the state in INPUT": {
			run(nft, append([]string{"-A", "INPUT"}, state...)), []string{"ip filter INPUT looks at the connection state"},
		},
		"the state in a chain behind INPUT, as of ufw": {
			run(nft, []string{"-N", "ufw-in"}, []string{"-A", "INPUT", "-j", "ufw-in"},
				append([]string{"-A", "ufw-in"}, state...)),
			[]string{"ip filter ufw-in looks at the connection state"},
		},
		"the same in legacy tables": {
			run(legacy, []string{"-N", "ufw-in"}, []string{"-A", "INPUT", "-j", "ufw-in"},
				append([]string{"-A", "ufw-in"}, state...)),
			[]string{"iptables-legacy filter ufw-in looks at the connection state"},
		},
		"mangle in legacy tables": {
			run(mangle, append([]string{"-A", "PREROUTING"}, state...)),
			[]string{"iptables-legacy mangle PREROUTING looks at the connection state"},
		},
		"the state of what is forwarded only": {do: run(nft, append([]string{"-A", "FORWARD"}, state...))},
		"likewise in legacy tables":           {do: run(legacy, append([]string{"-A", "FORWARD"}, state...))},
		"a chain that nothing leads to":       {do: run(nft, []string{"-N", "lost"}, append([]string{"-A", "lost"}, state...))},
		"kube-proxy's rules": {do: run(nft, []string{"-N", "KUBE-FIREWALL"}, []string{"-N", "KUBE-SERVICES"},
			append([]string{"-A", "KUBE-FIREWALL"}, state...), []string{"-A", "INPUT", "-j", "KUBE-FIREWALL"},
			[]string{"-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "KUBE-SERVICES"})},
		"kube-proxy's in legacy tables": {do: run(legacy, []string{"-N", "KUBE-FIREWALL"}, []string{"-N", "KUBE-SERVICES"},
			append([]string{"-A", "KUBE-FIREWALL"}, state...), []string{"-A", "INPUT", "-j", "KUBE-FIREWALL"},
			[]string{"-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "KUBE-SERVICES"})},
		"firewalld's table":  {do: inetGuard("firewalld"), want: []string{"inet firewalld filter_INPUT looks at the connection state"}},
		"kube-proxy's table": {do: inetGuard("kube-proxy")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.settle(dataplane.State{}) // the domain is known
			h.guards(nil)
			stale := h.awaitStale()
			test.do(newFirewall(t, h.ns))
			if test.want != nil {
				stale()
			}
			h.guards(test.want)
		})
	}
}

// A table that sleeps guards nothing, until it is woken.
func TestGuardsOfADormantTable(t *testing.T) {
	h := newHost(t)
	h.settle(dataplane.State{})
	h.ns.Exec("nft", "add table inet x { flags dormant; }; "+
		"add chain inet x in { type filter hook input priority 0; policy drop; }")
	h.guards(nil)
	stale := h.awaitStale()
	h.ns.Exec("nft", "add table inet x { }")
	stale()
	h.guards([]string{"inet x in drops by its policy"})
}

// inetGuard is a chain of its own for both families that is reached by a map.
func inetGuard(table string) func(*firewall) {
	return func(f *firewall) {
		f.t.Helper()
		in := f.AddTable(&nftables.Table{Name: table, Family: nftables.TableFamilyINet})
		base := f.AddChain(&nftables.Chain{
			Name: "input", Table: in, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
		})
		chain := f.AddChain(&nftables.Chain{Name: "filter_INPUT", Table: in})
		set := &nftables.Set{Table: in, Anonymous: true, Constant: true, IsMap: true, KeyType: nftables.TypeInetProto,
			DataType: nftables.TypeVerdict}
		if err := f.AddSet(set, []nftables.SetElement{{
			Key: []byte{17}, VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: chain.Name},
		}}); err != nil {
			f.t.Fatal(err)
		}
		f.AddRule(&nftables.Rule{Table: in, Chain: base, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
		}})
		f.AddRule(&nftables.Rule{Table: in, Chain: chain, Exprs: []expr.Any{
			&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0, 0, 0}},
			&expr.Verdict{Kind: expr.VerdictAccept},
		}})
		f.flush()
	}
}

func (h *host) guards(want []string) {
	h.Helper()
	f, err := h.Facts(h.Context(), nil)
	if err != nil || !slices.Equal(want, f.Firewall.Stateful) {
		h.Errorf("want %q, have %q, %v", want, f.Firewall.Stateful, err)
	}
}

// awaitStale gives a function that waits until Watch says that Facts are stale.
func (h *host) awaitStale() func() {
	h.Helper()
	ctx, cancel := context.WithCancel(h.Context())
	scopes := make(chan dataplane.Scope, 64)
	ended := make(chan error, 1)
	go func() { ended <- h.Watch(ctx, scopes) }()
	h.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			h.Error(err)
		}
	})
	<-scopes // All
	return func() {
		h.Helper()
		for {
			select {
			case s := <-scopes:
				if s.Facts {
					return
				}
			case <-time.After(patience):
				h.Fatal("nobody says that facts are stale")
			}
		}
	}
}
