// One session over REST, by the clients that oapi-codegen makes of the documents.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"clients/internalapi"
	"clients/publicapi"
)

func main() {
	if err := session(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func withToken(token string) func(context.Context, *http.Request) error {
	return func(_ context.Context, request *http.Request) error {
		request.Header.Set("authorization", "Bearer "+token)
		return nil
	}
}

func session() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	user := os.Getenv("BILLING_USER")
	public, err := publicapi.NewClientWithResponses("http://"+os.Getenv("BILLING_HTTP"),
		publicapi.WithRequestEditorFn(withToken(os.Getenv("BILLING_USER_TOKEN"))))
	if err != nil {
		return err
	}
	internal, err := internalapi.NewClientWithResponses("http://"+os.Getenv("BILLING_GRPC"),
		internalapi.WithRequestEditorFn(withToken(os.Getenv("BILLING_CALLER_TOKEN"))))
	if err != nil {
		return err
	}

	id := "credit-1"
	credited, err := internal.AdjustBalanceWithResponse(ctx, nil, internalapi.AdjustBalanceRequest{
		UserId: user, Amount: 5, Reason: "a session", AdjustmentId: &id,
	})
	if err != nil || credited.JSON200 == nil || credited.JSON200.Balance != 5 {
		return fmt.Errorf("credit: %v %s", err, credited.Body)
	}
	account, err := public.GetAccountWithResponse(ctx, &publicapi.GetAccountParams{UserId: &user})
	if err != nil || account.JSON200 == nil || account.JSON200.Balance != 5 {
		return fmt.Errorf("account: %v %s", err, account.Body)
	}
	check, err := internal.CheckQuotaWithResponse(ctx, nil, internalapi.CheckQuotaRequest{
		UserId: user, ServiceName: "asset", Count: 1010,
	})
	if err != nil || check.JSON200 == nil || !check.JSON200.Allowed || check.JSON200.EstimatedCost != 0.5 {
		return fmt.Errorf("check: %v %s", err, check.Body)
	}

	trace := "call-1"
	call := internalapi.DeductQuotaRequest{UserId: user, ServiceName: "asset", Count: 1010, TraceId: &trace}
	first, err := internal.DeductQuotaWithResponse(ctx, nil, call)
	if err != nil || first.JSON200 == nil || first.JSON200.PaidCount != 10 || first.JSON200.Balance != 4.5 {
		return fmt.Errorf("charge: %v %s", err, first.Body)
	}
	again, err := internal.DeductQuotaWithResponse(ctx, nil, call)
	if err != nil || again.JSON200 == nil || !again.JSON200.Replayed || again.JSON200.RecordId != first.JSON200.RecordId {
		return fmt.Errorf("replay: %v %s", err, again.Body)
	}

	records, err := public.ListRecordsWithResponse(ctx, &publicapi.ListRecordsParams{UserId: &user})
	if err != nil || records.JSON200 == nil || records.JSON200.TotalRecords != "2" || len(records.JSON200.Records) != 2 {
		return fmt.Errorf("records: %v %s", err, records.Body)
	}

	other := "call-2"
	refused, err := internal.DeductQuotaWithResponse(ctx, nil, internalapi.DeductQuotaRequest{
		UserId: user, ServiceName: "asset", Count: 100000, TraceId: &other,
	})
	if err != nil || refused.JSON400 == nil || refused.JSON400.Reason != "INSUFFICIENT_BALANCE" ||
		refused.JSON400.Metadata["error_code"] != "10001" {
		return fmt.Errorf("refusal: %v %s", err, refused.Body)
	}
	return nil
}
