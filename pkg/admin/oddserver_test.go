package admin

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serveOddly has somebody who is no lvx answer on a socket: each connection gets
// what answer writes once something was asked.
func serveOddly(t *testing.T, answer func(c net.Conn)) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			answer(c)
			_ = c.Close()
		}
	}()
	return NewClient(socket)
}

const okHead = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"

// Whoever answers on the socket, the question ends, with a line that says what is
// wrong: also when an answer stops in the middle, or never ends.
func TestFault25AnswersThatAreNone(t *testing.T) {
	untilClosed := func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }
	for name, test := range map[string]struct {
		answer func(c net.Conn)
		says   string
	}{
		"nothing":       {func(net.Conn) {}, "EOF"},
		"garbage":       {func(c net.Conn) { fmt.Fprint(c, "\x00\x01\x02\x7f\n") }, "malformed"},
		"no JSON":       {func(c net.Conn) { fmt.Fprint(c, okHead+"<html>") }, "answer of the daemon: invalid character"},
		"another shape": {func(c net.Conn) { fmt.Fprint(c, okHead+`{"services": 7}`) }, "answer of the daemon: json: cannot unmarshal number"},
		"an empty one":  {func(c net.Conn) { fmt.Fprint(c, okHead+`{}`) }, "it is no status"},
		"null":          {func(c net.Conn) { fmt.Fprint(c, okHead+`null`) }, "it is no status"},
		"half of one":   {func(c net.Conn) { fmt.Fprint(c, okHead+`{"version": "1`) }, "answer of the daemon: unexpected EOF"},
		"an error":      {func(c net.Conn) { fmt.Fprint(c, "HTTP/1.1 500 Oops\r\n\r\n<html>") }, "the daemon answers 500 Oops"},
		"a stop":        {func(c net.Conn) { fmt.Fprint(c, okHead+`{"version": "1`); untilClosed(c) }, "for 1s"},
		"a stop in an error": {func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 500 Oops\r\n\r\n{")
			untilClosed(c)
		}, "the daemon"},
		"no end": {func(c net.Conn) {
			_, _ = io.Copy(c, io.MultiReader(strings.NewReader(okHead+`{"version": "`), endless{}))
		}, "it is longer than any answer of lvx"},
	} {
		t.Run(name, func(t *testing.T) {
			c := serveOddly(t, test.answer)
			c.longest = 1 << 20
			if strings.HasPrefix(name, "a stop") {
				c.patience = time.Second
			}
			if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want %q", err, test.says)
			}
		})
	}
}

// endless is a reader that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// A daemon that needs long for a long answer, and goes on, is waited for.
func TestSlowAnswersAreWaitedFor(t *testing.T) {
	parts := make(chan string)
	c := serveOddly(t, func(c net.Conn) {
		for p := range parts {
			fmt.Fprint(c, p)
		}
	})
	c.patience = 10 * time.Second
	heard := make(chan error)
	go func() {
		_, err := c.Status(t.Context())
		heard <- err
	}()
	for _, p := range []string{okHead, `{"version": "1", `, `"started": "2026-`, `11-27T00:00:00Z"}`} {
		parts <- p
	}
	close(parts)
	if err := <-heard; err != nil {
		t.Error(err)
	}
}
