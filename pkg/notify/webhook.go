package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// webhook posts a JSON document.
type webhook struct {
	url    *url.URL
	client *http.Client
}

func newWebhook(text string) (*webhook, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("notify webhook %q (want http://HOST/PATH or https://HOST/PATH)", guard.Text(text))
	}
	return &webhook{u, &http.Client{
		// Messages are rare: a connection that stays open is only a leak.
		Transport: &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}, nil
}

// String leaves out what may be a secret: the path and the query.
func (w *webhook) String() string { return "webhook " + guard.Text(w.url.Host) }

func (w *webhook) patience() (time.Duration, int) { return 10 * time.Second, 3 }

// document is documented with the package.
type document struct {
	Kind    Kind   `json:"kind"`
	Name    string `json:"name"`
	Service string `json:"service"`
	Real    string `json:"real"`
	Old     string `json:"old"`
	New     string `json:"new"`
	Reason  string `json:"reason"`
	Time    string `json:"time"`
	Host    string `json:"host"`
	Changes int    `json:"changes"`
	Text    string `json:"text"`
}

func (w *webhook) send(ctx context.Context, m message) error {
	body, err := json.Marshal(document{
		m.Kind, m.Name, m.service(), m.real(), m.Old, m.New, m.Reason,
		m.Time.Format(time.RFC3339), m.host, m.changes, m.text(),
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "lvx")
	resp, err := w.client.Do(req)
	if err != nil {
		var ue *url.Error // names the whole URL
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return err
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("status %d (want 200-299; redirects are not followed)", resp.StatusCode)
	}
	return nil
}
