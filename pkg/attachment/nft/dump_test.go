package nft_test

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/weftnet/weft/pkg/attachment/nft"
	"github.com/weftnet/weft/pkg/netnstest"
)

// What nobody touches is there in every look, whatever others write beside it: their
// chains come and go, and their elements, so that the table is never of one size.
func TestReadBesideWriters(t *testing.T) {
	const chains, elements, looks, rest = 200, 2000, 60, 2 * time.Millisecond
	host := netnstest.New(t)
	table := &nftables.Table{Name: "beside", Family: nftables.TableFamilyINet}
	set := &nftables.Set{Name: "numbers", Table: table, KeyType: nftables.TypeInteger}
	flush := func(c *nftables.Conn, what string) {
		if err := c.Flush(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	chain := func(c *nftables.Conn, name string) {
		ch := c.AddChain(&nftables.Chain{Name: name, Table: table})
		for i := range 3 {
			c.AddRule(&nftables.Rule{
				Table: table, Chain: ch, UserData: nft.Data(name, i, 3),
				Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}},
			})
		}
	}
	numbers := func(from, n int) (out []nftables.SetElement) {
		for i := range n {
			out = append(out, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, uint32(from+i))})
		}
		return out
	}
	host.Do(func() {
		c, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		if all, err := nft.Rules(table); len(all) > 0 || err != nil {
			t.Errorf("no table: %v, %v", all, err)
		}
		if all, err := nft.Elements(set); len(all) > 0 || err != nil {
			t.Errorf("no set: %v, %v", all, err)
		}
		c.AddTable(table)
		if err := c.AddSet(set, numbers(0, 20)); err != nil {
			t.Fatal(err)
		}
		for i := range chains {
			chain(c, fmt.Sprintf("kept%d", i))
			chain(c, fmt.Sprintf("other%d", i))
			flush(c, "make two chains")
		}
		flush(c, "make the table")
	})
	done := make(chan struct{})
	var wg sync.WaitGroup
	writer := func(put, remove func(c *nftables.Conn, n int)) {
		wg.Go(func() {
			host.Do(func() {
				c, err := nftables.New(nftables.AsLasting())
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = c.CloseLasting() }()
				for n := 0; ; n++ {
					select {
					case <-done:
						return
					default:
					}
					remove(c, n)
					flush(c, "take away")
					put(c, n)
					flush(c, "put")
					<-time.After(rest)
				}
			})
		})
	}
	writer(func(c *nftables.Conn, n int) { chain(c, fmt.Sprintf("other%d", n%chains)) },
		func(c *nftables.Conn, n int) {
			c.DelChain(&nftables.Chain{Name: fmt.Sprintf("other%d", n%chains), Table: table})
		})
	writer(func(c *nftables.Conn, _ int) { _ = c.SetAddElements(set, numbers(100, elements)) },
		func(c *nftables.Conn, n int) {
			if n > 0 {
				_ = c.SetDeleteElements(set, numbers(100, elements))
			}
		})
	host.Do(func() {
		for range looks {
			rules, err := nft.Rules(table)
			comments := nft.Comments(rules)
			for i := range chains {
				name := fmt.Sprintf("kept%d", i)
				if mark := nft.Of(comments[name]); mark != name || err != nil {
					t.Errorf("chain %s has mark %q, %v; of %d rules", name, mark, err, len(rules))
				}
			}
		}
		for range looks {
			all, err := nft.Elements(set)
			kept := 0
			for _, e := range all {
				if binary.BigEndian.Uint32(e.Key) < 20 {
					kept++
				}
			}
			if kept != 20 || err != nil {
				t.Errorf("%d of 20 elements, %v; of %d", kept, err, len(all))
				break
			}
		}
	})
	close(done)
	wg.Wait()
}
