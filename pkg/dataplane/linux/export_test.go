package linux

// ForceFallbacks makes the kernel one from before strict dumps and gets of
// single neighbours.
func (k *Kernel) ForceFallbacks() {
	k.closeRoute()
	k.lenient, k.noGets = true, true
}

// SetWatchBuffer is the kernel's queue for Watch, in bytes.
func (k *Kernel) SetWatchBuffer(bytes int) { k.watchBytes = bytes }
