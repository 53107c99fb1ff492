package kerneltest

import (
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/offload"
)

// offloadCases are about what a device leaves to the network card.
func offloadCases() map[string]func(*bench) {
	return map[string]func(*bench){
		"switched off, and on again":                      offloadSwitched,
		"somebody else's setting stays if none is wanted": offloadAsIs,
		"somebody undoes it":                              offloadUndone,
		"a new device has it too": func(b *bench) {
			b.settle(withOffload(offload.Off))
			for _, s := range sides() {
				b.Admin.Delete(oneLink(s.dev, dataplane.Link{}))
			}
			b.settle(withOffload(offload.Off))
		},
		"a restarted process sees it": func(b *bench) {
			b.settle(withOffload(offload.Off))
			b.Kernel = b.Reopen()
			b.converged(withOffload(offload.Off))
		},
	}
}

// withOffload is a state whose devices all have the setting.
func withOffload(o offload.Setting) dataplane.State {
	want := everything(2)
	for name, l := range want.Links {
		l.TXChecksum = o
		want.Links[name] = l
	}
	return want
}

func offloadSwitched(b *bench) {
	b.settle(everything(2))
	b.settle(withOffload(offload.Off))
	p := b.plan(withOffload(offload.On), full())
	if have := count(p); have != "~2 link" {
		b.Errorf("want both devices changed, have:\n%s", p)
	}
	b.apply(p)
	b.converged(everything(2)) // on is what a device has unless something is said
	if p := b.plan(withOffload(offload.On), full()); !p.Empty() {
		b.Errorf("it is on already, and this is planned:\n%s", p)
	}
}

func offloadAsIs(b *bench) {
	b.settle(everything(2))
	b.Admin.Put(dataplane.State{Links: withOffload(offload.Off).Links})
	if p := b.plan(everything(2), full()); !p.Empty() {
		b.Errorf("nothing is wanted of it, and this is planned:\n%s", p)
	}
	b.converged(withOffload(offload.Off))
}

func offloadUndone(b *bench) {
	want := withOffload(offload.Off)
	b.settle(want)
	notices := b.watch()
	undone := dataplane.State{Links: withOffload(offload.On).Links}
	b.Admin.Put(undone)
	notices.until(undone, want)
	if have := count(b.plan(want, narrow(undone))); have != "~2 link" {
		b.Errorf("want both devices changed, have %s", have)
	}
	b.settle(want)
}
