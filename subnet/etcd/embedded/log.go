package embedded

import (
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/sirupsen/logrus"
	"go.uber.org/zap/zapcore"
)

// bridge is a zapcore.Core that gives etcd's errors, and nothing below, to our
// logger: etcd logs dozens of lines at a start that went well. What it calls an
// error while it is being ended, every listener that closes, is left out too.
type bridge struct {
	to    logrus.FieldLogger
	phase *atomic.Int32
}

func newBridge(to logrus.FieldLogger, phase *atomic.Int32) zapcore.Core {
	return &bridge{to: to.WithField("component", "etcd"), phase: phase}
}

func (b *bridge) Enabled(l zapcore.Level) bool {
	return l > zapcore.ErrorLevel || l == zapcore.ErrorLevel && b.phase.Load() != ending
}

func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{to: b.with(fields), phase: b.phase}
}

func (b *bridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !b.Enabled(e.Level) {
		return c
	}
	return c.AddCore(e, b)
}

func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	b.with(fields).Error(e.Message)
	return nil
}

func (b *bridge) Sync() error { return nil }

// fatal takes what etcd ends the process for, or panics over. While it starts,
// that is news about its data: only the goroutine that met it ends, which is
// not always the one that started, and Start reports it. Later on nothing is
// safe any more, and the process does end.
type fatal struct {
	phase *atomic.Int32
	news  chan string // holds one
}

func (f *fatal) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	enc := zapcore.NewMapObjectEncoder()
	for _, field := range fields {
		field.AddTo(enc)
	}
	what := e.Message
	if cause, ok := enc.Fields["error"]; ok {
		what += fmt.Sprintf(": %v", cause)
	}
	if f.phase.Load() != starting {
		panic("embedded etcd: " + what)
	}
	select {
	case f.news <- what:
	default:
	}
	runtime.Goexit()
}

func (b *bridge) with(fields []zapcore.Field) logrus.FieldLogger {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	return b.to.WithFields(enc.Fields)
}
