"""The chat template of the demo: the release's of 2026-03, as far as a tiny model goes."""

# Conversations, thoughts, images and simple tools come out as the released template writes them; a test
# compares. What a tool's parameters may say beyond name, type and description is left out.
CHAT_TEMPLATE = r"""
{%- macro text(content) -%}
    {%- if content is string -%}
        {{- content | trim -}}
    {%- elif content is sequence -%}
        {%- for part in content -%}
            {%- if part['type'] == 'text' -%}{{- part['text'] | trim -}}
            {%- elif part['type'] in ['image', 'image_url'] -%}{{- '<|image|>' -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- macro value(item) -%}
    {%- if item is string -%}{{- '<|"|>' + item + '<|"|>' -}}
    {%- elif item is boolean -%}{{- 'true' if item else 'false' -}}
    {%- elif item is mapping -%}
        {{- '{' -}}
        {%- for key, inner in item | dictsort -%}
            {{- key + ':' + value(inner) -}}{{- ',' if not loop.last -}}
        {%- endfor -%}
        {{- '}' -}}
    {%- else -%}{{- item -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro declared(f) -%}
    {{- '<|tool>declaration:' + f['name'] + '{description:<|"|>' + f['description'] + '<|"|>' -}}
    {%- if f['parameters'] -%}
        {{- ',parameters:{properties:{' -}}
        {%- for key, one in f['parameters']['properties'] | dictsort -%}
            {{- key + ':{' -}}
            {%- if one['description'] -%}
                {{- 'description:<|"|>' + one['description'] + '<|"|>,' -}}
            {%- endif -%}
            {{- 'type:<|"|>' + (one['type'] | upper) + '<|"|>}' -}}{{- ',' if not loop.last -}}
        {%- endfor -%}
        {{- '}' -}}
        {%- if f['parameters']['required'] -%}
            {{- ',required:[' -}}
            {%- for key in f['parameters']['required'] -%}
                {{- '<|"|>' + key + '<|"|>' -}}{{- ',' if not loop.last -}}
            {%- endfor -%}
            {{- ']' -}}
        {%- endif -%}
        {{- ',type:<|"|>' + (f['parameters']['type'] | upper) + '<|"|>}' -}}
    {%- endif -%}
    {{- '}<tool|>' -}}
{%- endmacro -%}
{%- set thinking = enable_thinking is defined and enable_thinking -%}
{%- set has_system = messages[0]['role'] in ['system', 'developer'] -%}
{%- set ns = namespace(after=none, name='unknown') -%}
{{- bos_token -}}
{%- if thinking or has_system or tools -%}
    {{- '<|turn>system\n' -}}
    {{- '<|think|>\n' if thinking -}}
    {{- text(messages[0]['content']) if has_system -}}
    {%- for tool in tools or [] -%}{{- declared(tool['function']) -}}{%- endfor -%}
    {{- '<turn|>\n' -}}
{%- endif -%}
{%- for message in (messages[1:] if has_system else messages) -%}
    {%- if message['role'] == 'tool' -%}
        {{- '<|tool_response>response:' + (message['name'] or ns.name) + '{value:' -}}
        {{- value(text(message['content'])) + '}<tool_response|>' -}}
        {%- set ns.after = 'tool' -%}
    {%- else -%}
        {%- set model = message['role'] == 'assistant' -%}
        {%- if not (model and ns.after == 'tool') -%}
            {{- '<|turn>' + ('model' if model else message['role']) + '\n' -}}
        {%- endif -%}
        {%- set ns.after = none -%}
        {%- for call in message['tool_calls'] or [] -%}
            {{- '<|tool_call>call:' + call['function']['name'] + value(call['function']['arguments']) -}}
            {{- '<tool_call|>' -}}
            {%- set ns.after = 'call' -%}
            {%- set ns.name = call['function']['name'] -%}
        {%- endfor -%}
        {%- if model -%}
            {%- set answer -%}
                {%- for part in text(message['content']).split('<channel|>') -%}
                    {{- part.split('<|channel>')[0] -}}
                {%- endfor -%}
            {%- endset -%}
            {{- answer | trim -}}
        {%- else -%}
            {{- text(message['content']) -}}
        {%- endif -%}
        {{- '<turn|>\n' if ns.after is none -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if ns.after is none -%}
        {{- '<|turn>model\n' -}}
        {{- '<|channel>thought\n<channel|>' if not thinking -}}
    {%- endif -%}
{%- endif -%}
"""
