package linux

import "net/netip"

// ErrNoAnswer is for tests.
var ErrNoAnswer = errNoAnswer

// ForceFallbacks makes the kernel one from before strict dumps, gets of single
// neighbours and nexthop objects.
func (k *Kernel) ForceFallbacks() {
	k.closeRoute()
	k.lenient, k.noGets, k.noNexthops = true, true, true
}

// SetWatchBuffer is the kernel's queue for Watch, in bytes.
func (k *Kernel) SetWatchBuffer(bytes int) { k.watchBytes = bytes }

// HasNexthops tells whether routes go by nexthop objects.
func (k *Kernel) HasNexthops() bool { return k.hasNexthops() }

// NexthopID is the id that is tried first, second and so on for a gateway.
func NexthopID(index int, via netip.Addr, probe int) uint32 { return gateway{index, via}.id(probe) }

// SetAnswerBuffer is the kernel's queue for answers, in bytes.
func (k *Kernel) SetAnswerBuffer(bytes int) {
	k.closeRoute()
	k.answerBytes = bytes
}

// SetLockFile is the lock of iptables' programs.
func (k *Kernel) SetLockFile(path string) { k.lockFile = path }

// SetProgramDirs is where programs are looked for, and nowhere else.
func (k *Kernel) SetProgramDirs(dirs ...string) { k.programs.dirs = append([]string{}, dirs...) }

// Runs counts the programs that were run.
func (k *Kernel) Runs() int { return k.programs.runs }
