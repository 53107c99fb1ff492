// Package version says which build this is.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version is what `git describe` said at build time. The linker sets it
// (-ldflags -X, see the Makefile); nothing else may.
var Version = "" //nolint:gochecknoglobals // the linker can only set a variable

// Short is the version alone: the stamped one, else what the go command knows
// about the module, else "unknown".
func Short() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return choose(Version, info.Main.Version)
}

// String is the version with the Go release and the platform:
// "v0.1.0 (go1.26.8, linux/amd64)".
func String() string {
	return fmt.Sprintf("%s (%s, %s/%s)", Short(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func choose(stamped, module string) string {
	switch {
	case stamped != "":
		return stamped
	case module != "" && module != "(devel)":
		return module
	}
	return "unknown"
}
