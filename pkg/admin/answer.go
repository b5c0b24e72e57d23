package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// readAnswer copies an answer to a writer, or decodes it.
func readAnswer(r io.Reader, answer any) error {
	if w, ok := answer.(io.Writer); ok {
		_, err := io.Copy(w, r)
		return err
	}
	return json.NewDecoder(r).Decode(answer)
}

// steadyReader reads from somebody who may stop, or never end.
type steadyReader struct {
	from  io.Reader
	left  int64
	heard func() // called when something has come
}

// Read implements [io.Reader].
func (r *steadyReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, errors.New("it is longer than any answer of lvx")
	}
	n, err := r.from.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if n > 0 {
		r.heard()
	}
	return n, err
}

// refusal is why the daemon has not done what it was asked: in its own words,
// where it had the time for them.
func (c *Client) refusal(status string, code int, body io.Reader) error {
	var p problem
	err := json.NewDecoder(io.LimitReader(body, 1<<20)).Decode(&p)
	switch {
	case err == nil && p.Error != "":
		return errors.New(p.Error)
	case code == http.StatusServiceUnavailable:
		return fmt.Errorf("the daemon on %s is too busy to answer (see its log; the packet path does not need it)", c.socket)
	}
	return fmt.Errorf("the daemon answers %s (is it another version?)", status)
}
