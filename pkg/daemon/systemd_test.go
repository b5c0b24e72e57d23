package daemon

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// bus stands in for the system bus, with systemd on it: it answers the calls
// that are asked of it, in order or not, and knows one unit.
type bus struct {
	job    string // type of the queued job; "" = none
	silent bool   // takes calls and answers nothing
}

// serve makes this process one that systemd runs, with b as its bus.
func (b bus) serve(t *testing.T) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bus")
	l, err := b.listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	t.Setenv("INVOCATION_ID", "0123456789abcdef0123456789abcdef")
}

// listen answers on a socket until the listener is closed.
func (b bus) listen(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if err := b.talk(c); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
					fmt.Fprintln(os.Stderr, "stand-in bus:", err)
				}
			}()
		}
	}()
	return l, nil
}

// talk speaks the server's side of D-Bus: the handshake, then calls.
func (b bus) talk(c net.Conn) error {
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		switch words := strings.Fields(strings.TrimLeft(line, "\x00")); {
		case len(words) == 0:
		case words[0] == "BEGIN":
			return b.answer(r, c)
		case words[0] == "AUTH" && len(words) > 1:
			fmt.Fprint(c, "OK 0123456789abcdef0123456789abcdef\r\n")
		case words[0] == "AUTH":
			fmt.Fprint(c, "REJECTED EXTERNAL\r\n")
		default:
			fmt.Fprint(c, "ERROR\r\n")
		}
	}
}

func (b bus) answer(r io.Reader, w io.Writer) error {
	for {
		call, err := dbus.DecodeMessage(r)
		if err != nil {
			return err
		}
		if b.silent && call.Headers[dbus.FieldMember].Value() != "Hello" {
			continue
		}
		reply := &dbus.Message{
			Type:    dbus.TypeMethodReply,
			Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(call.Serial())},
			Body:    []any{b.value(call)},
		}
		if failure, ok := reply.Body[0].(error); ok {
			reply.Type, reply.Body = dbus.TypeError, []any{failure.Error()}
			reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant("org.freedesktop.DBus.Error.Failed")
		}
		reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(reply.Body...))
		if err := setSerial(reply, w); err != nil {
			return err
		}
	}
}

// setSerial sends a message with a serial number: the library sets one for
// its own side only.
func setSerial(m *dbus.Message, w io.Writer) error {
	var b strings.Builder
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		return err
	}
	raw := []byte(b.String())
	binary.LittleEndian.PutUint32(raw[8:], 7)
	_, err := w.Write(raw)
	return err
}

// value is the answer to one call, as systemd gives it.
func (b bus) value(call *dbus.Message) any {
	const unit, job = dbus.ObjectPath("/org/freedesktop/systemd1/unit/lvx_2eservice"), dbus.ObjectPath("/org/freedesktop/systemd1/job/42")
	path, _ := call.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	switch member := call.Headers[dbus.FieldMember].Value(); {
	case member == "Hello":
		return ":1.1"
	case member == "GetUnitByPID" && call.Body[0] == uint32(os.Getpid()):
		return unit
	case member == "Get" && path == unit && call.Body[1] == "Job":
		type queued struct {
			ID   uint32
			Path dbus.ObjectPath
		}
		if b.job == "" {
			return dbus.MakeVariant(queued{0, "/"})
		}
		return dbus.MakeVariant(queued{42, job})
	case member == "Get" && path == job && call.Body[1] == "JobType":
		return dbus.MakeVariant(b.job)
	}
	return fmt.Errorf("no answer to %v", call)
}

func TestSystemdJob(t *testing.T) {
	for job, want := range map[string]Job{
		"": JobUnknown, "stop": JobStop, "restart": JobRestart, "try-restart": JobRestart, "reload": JobUnknown, "start": JobUnknown,
	} {
		t.Run("job "+job, func(t *testing.T) {
			bus{job: job}.serve(t)
			if got, err := SystemdJob(t.Context(), os.Getpid()); got != want || err != nil {
				t.Errorf("%q, %v, want %q", got, err, want)
			}
		})
	}
}

func TestSystemdJobNobodyKnows(t *testing.T) {
	t.Setenv("INVOCATION_ID", "")
	if job, err := SystemdJob(t.Context(), os.Getpid()); job != JobUnknown || err != nil {
		t.Errorf("without systemd: %q, %v", job, err)
	}
	bus{job: "stop"}.serve(t)
	if job, err := SystemdJob(t.Context(), 1); job != JobUnknown || err == nil {
		t.Errorf("process of no unit: %q, %v", job, err)
	}
	bus{silent: true}.serve(t)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if job, err := SystemdJob(ctx, os.Getpid()); job != JobUnknown || err == nil {
		t.Errorf("systemd that hangs: %q, %v", job, err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("waited %v for a systemd that hangs", took)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	if job, err := SystemdJob(t.Context(), os.Getpid()); job != JobUnknown || err == nil {
		t.Errorf("no bus: %q, %v", job, err)
	}
}
